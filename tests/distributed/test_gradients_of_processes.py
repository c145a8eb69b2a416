"""N processes with DistributedDataParallel have the gradients and losses of one with the N-fold batch."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from processes import run_job
from tiny import image_input, tiny_detector
from torch.nn.parallel import DistributedDataParallel

from detrex.modeling import HungarianMatcher, LookForwardTwice, LossWeights
from projects.h_deformable_detr.modeling import HybridCriterion

# Objects of eight images: with two processes 8 and 12, with four 0, 8, 12 and 0.
OBJECTS = (0, 0, 3, 5, 1, 11, 0, 0)
VARIANTS = ("plain", "two_stage", "hybrid")
INPUTS = [image_input(64, 96, boxes=count, seed=i) for i, count in enumerate(OBJECTS)]


def detector(variant: str):
    if variant != "hybrid":
        return tiny_detector(variant)
    model = tiny_detector("two_stage", queries=10, one2many=20, refinement=LookForwardTwice())
    model.criterion = HybridCriterion(num_classes=3, matcher=HungarianMatcher(), weights=LossWeights(), num_repeats=2)
    return model


def step(model, inputs: list[dict]) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    losses = model(inputs)
    sum(losses.values()).backward()
    gradients = {name.removeprefix("module."): p.grad for name, p in model.named_parameters()}
    return {name: loss.detach() for name, loss in losses.items()}, gradients


def share_of_a_step(rank: int, world: int, folder: Path) -> None:
    share = len(INPUTS) // world
    for variant in VARIANTS:
        # Default arguments: find_unused_parameters is off, so every parameter must have its gradient.
        model = DistributedDataParallel(detector(variant).train())
        losses, gradients = step(model, INPUTS[rank * share : (rank + 1) * share])
        for loss in losses.values():
            dist.all_reduce(loss)
        if rank == 0:
            torch.save(({name: loss / world for name, loss in losses.items()}, gradients), folder / f"{variant}.pth")


@pytest.fixture(scope="module", params=[2, 4])
def results(request, tmp_path_factory) -> Path:
    """A folder with a file for each variant, written by so many processes."""
    folder = tmp_path_factory.mktemp("results")
    run_job(share_of_a_step, request.param, folder, folder=folder)
    return folder


@pytest.mark.parametrize("variant", VARIANTS)
def test_equal_those_of_one_process_with_all_images(results, variant):
    expected_losses, expected = step(detector(variant).train(), INPUTS)
    losses, gradients = torch.load(results / f"{variant}.pth", weights_only=True)
    torch.testing.assert_close(losses, expected_losses, rtol=1e-5, atol=1e-6)
    assert gradients.keys() == expected.keys()
    for name, gradient in expected.items():
        scale = float(gradient.abs().max())
        assert scale > 0, name
        torch.testing.assert_close(gradients[name], gradient, rtol=0, atol=1e-5 * max(scale, 1.0), msg=name)
