"""Each optimization, and all together, leave a detector's outputs as they are."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest
import torch

from detrex.inference.optimizations import (
    ONEDNN_CHOICES,
    OPTIMIZATIONS,
    TrainingOptimizations,
    fold_norms,
    optimize_model,
)
from detrex.layers.onednn import OneDnnLinear
from tests.parity.pairs import NUM_CLASSES, ours
from tests.tiny import image_input, randomize

INPUTS = [image_input(h, w, num_classes=NUM_CLASSES, seed=i) for i, (h, w) in enumerate([(128, 192), (160, 128)])]


def detector(variant: str):
    """A small ResNet detector with weights and BatchNorm statistics that matter."""
    torch.manual_seed(0)
    model = ours(variant, full=False).eval()
    randomize(model)
    for name, buffer in model.named_buffers():
        if name.endswith(("running_mean", "norm.bias")):
            buffer.normal_(std=0.2)
        elif name.endswith(("running_var", "norm.weight")):
            buffer.uniform_(0.7, 1.3)
    return model


@torch.no_grad()
def final(model) -> tuple[torch.Tensor, torch.Tensor]:
    predictions = model.outputs([x["image"] for x in INPUTS]).layers[-1]
    return predictions.logits_BQK, predictions.boxes_BQ4


@pytest.mark.parametrize("variant", ["plain", "two_stage"])
@pytest.mark.parametrize(
    "optimizations", [[name] for name in OPTIMIZATIONS] + [None], ids=lambda x: x[0] if x else "all"
)
def test_same_outputs(variant, optimizations, monkeypatch):
    monkeypatch.setattr("detrex.inference.optimizations.CHUNK", 100)  # several chunks, the last one shorter
    model = detector(variant)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    expected = final(model)
    accelerated = optimize_model(model.train(), optimizations, onednn=True)
    for actual, wanted in zip(final(accelerated), expected, strict=True):
        torch.testing.assert_close(actual, wanted, rtol=1e-5, atol=1e-5)
    assert not accelerated.training
    assert not any(parameter.requires_grad for parameter in accelerated.parameters())
    # The model itself is as it was.
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_every_norm_of_the_backbone_is_folded():
    model = detector("plain")
    assert fold_norms(model) == f"{1 + 4 * (3 + 1)} convolutions"  # the stem; three and a shortcut in each block
    assert not any(name.endswith("running_var") for name, _ in model.backbone.named_buffers())
    assert all(conv.norm is not None for conv in model.neck.convs)  # GroupNorm depends on the image


def test_a_slower_onednn_is_left_alone(caplog):
    caplog.set_level("INFO")
    model = optimize_model(detector("plain"), ["onednn_linear"], onednn=False)
    assert "onednn_linear: not faster on this processor" in caplog.text
    assert type(model.transformer.encoder.layers[0].ffn.linear1) is torch.nn.Linear


def test_training_optimizations_leave_losses_and_gradients_and_names():
    model = detector("two_stage").train()
    inputs = [image_input(h, w, boxes=4, num_classes=NUM_CLASSES, seed=i) for i, (h, w) in enumerate([(96, 128)] * 2)]

    def step() -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
        model.zero_grad()
        losses = model(inputs)
        sum(losses.values()).backward()
        return losses, {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

    parameters = dict(model.named_parameters())
    expected_losses, expected_gradients = step()
    TrainingOptimizations(model, onednn="always")
    assert isinstance(model.transformer.encoder.layers[0].ffn.linear1, OneDnnLinear)
    losses, gradients = step()
    torch.testing.assert_close(losses, expected_losses, rtol=1e-5, atol=1e-5)
    assert {name: id(p) for name, p in model.named_parameters()} == {name: id(p) for name, p in parameters.items()}
    assert gradients.keys() == expected_gradients.keys()
    for name, gradient in gradients.items():
        scale = max(1.0, float(expected_gradients[name].abs().max()))
        torch.testing.assert_close(gradient, expected_gradients[name], rtol=0, atol=2e-5 * scale, msg=name)


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this torch has no oneDNN")
@pytest.mark.parametrize(("before", "now"), [(True, False), (False, True)])
def test_a_resumed_run_keeps_its_choice_on_another_machine(before, now, monkeypatch):
    def start(faster: bool, optimizations: list[str] | None = None) -> tuple[torch.nn.Module, TrainingOptimizations]:
        monkeypatch.setitem(ONEDNN_CHOICES, "auto", lambda: faster)
        model = detector("plain").train()
        return model, TrainingOptimizations(model, optimizations)

    def layer(model: torch.nn.Module) -> torch.nn.Module:
        return model.transformer.encoder.layers[0].ffn.linear1

    old, optimizations = start(before)
    new, resumed = start(now)
    weight = layer(new).weight
    assert type(layer(old)) is not type(layer(new))
    resumed.load_state_dict(optimizations.state_dict())
    assert type(layer(old)) is type(layer(new))
    assert layer(new).weight is weight
    assert resumed.onednn is before  # for evaluations
    # A training without the optimization stays without.
    plain, none = start(now, [])
    none.load_state_dict(optimizations.state_dict())
    assert type(layer(plain)) is torch.nn.Linear


def test_unknown_optimization_is_an_error():
    with pytest.raises(ValueError, match=r"unknown optimizations \['fold'\]; there are fold_norms"):
        optimize_model(detector("plain"), ["fold"])


FRESH_PAGES = """
import resource, torch
from detrex.inference.optimizations import keep_freed_memory
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(2**24)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
def after_warming_up():
    for _ in range(20):  # blocks of several alignments come together
        faults()
    return sum(faults() for _ in range(10))
print(after_warming_up(), keep_freed_memory(), after_warming_up())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="for glibc")
def test_freed_memory_is_used_again():
    output = subprocess.run([sys.executable, "-c", FRESH_PAGES], capture_output=True, text=True, check=True).stdout
    before, took_effect, after = output.split()
    assert took_effect == "True"
    assert int(before) > 10 * 2**14 / 2  # 64 MiB in pages of 4 KiB
    assert int(after) < int(before) / 5
