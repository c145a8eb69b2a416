"""The model of ``make demo`` trains to the same losses with the compiled operator and with its definition.

In float64 throughout: in float32 AdamW makes steps of full size from gradients that are little more than rounding, so
that any two orders of summation drift apart within ten steps.
"""

from __future__ import annotations

import dataclasses

import pytest
import torch
from detectron2.config import instantiate

import detrex_ops
from detrex.config import load_config
from detrex.solver.param_groups import build_optimizer
from detrex.structures import PyramidLayout
from detrex_ops.extension import load_extension
from tests.tiny import image_input

CONFIG = "projects/deformable_detr/configs/demo_shapes.py"
STEPS = 5


@pytest.fixture
def in_float64(monkeypatch):
    """What the models keep in float32 for the sake of half precision is in float64 too."""
    build = PyramidLayout.build

    def build_in_float64(*args) -> PyramidLayout:
        layout = build(*args)
        return dataclasses.replace(layout, shape_L2=layout.shape_L2.double(), valid_BL2=layout.valid_BL2.double())

    monkeypatch.setattr(PyramidLayout, "build", build_in_float64)
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)


def losses_of_training(backend: str, monkeypatch: pytest.MonkeyPatch) -> torch.Tensor:
    """(STEPS, losses) from the same weights on the same images."""
    monkeypatch.setenv("DETREX_OPS", backend)
    assert detrex_ops.backend("cpu") == backend
    torch.manual_seed(0)
    cfg = load_config(CONFIG)
    model = instantiate(cfg.model).double().train()
    for name, parameter in model.named_parameters():
        if name.endswith("sampling_offsets.bias"):
            # Samples begin on the centres of cells, where the derivative has two values and rounding takes one.
            parameter.data += torch.rand_like(parameter) - 0.5
    optimizer = build_optimizer(cfg, model)
    rows = []
    for step in range(STEPS):
        batch = [image_input(128, 128 - 32 * k, boxes=4, num_classes=5, seed=2 * step + k) for k in range(2)]
        losses = model(batch)
        optimizer.zero_grad()
        sum(losses.values()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), cfg.train.clip_grad.params.max_norm)
        optimizer.step()
        rows.append(torch.stack([loss.detach() for loss in losses.values()]))
    return torch.stack(rows)


@pytest.mark.skipif(not load_extension("cpu"), reason="the CPU extension is not built")
def test_same_losses(monkeypatch, in_float64):
    kernel, reference = (losses_of_training(backend, monkeypatch) for backend in ("cpu", "reference"))
    assert kernel.dtype == torch.float64
    assert kernel[-1].sum() < kernel[0].sum()
    torch.testing.assert_close(kernel, reference, rtol=1e-10, atol=1e-10)
