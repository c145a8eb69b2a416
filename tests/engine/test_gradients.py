"""A batch that is worked through in parts gives the update of the batch."""

from __future__ import annotations

import itertools
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from tiny import image_input, tiny_detector
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from detrex.config import ConfigError
from detrex.engine import Trainer
from detrex.engine.gradients import accumulate_gradients, split_batch
from detrex.engine.metrics import PhaseTimer
from detrex.modeling import HungarianMatcher, LookForwardTwice, LossWeights, PadFeatures, PadImages
from projects.h_deformable_detr.modeling import HybridCriterion

CPU = torch.device("cpu")


def batch() -> list[dict]:
    """Eight images of many sizes; the second and the last two have no objects, and the first has boxes without area."""
    sizes = [(64, 96, 7), (96, 64, 0), (80, 80, 1), (64, 64, 3), (96, 96, 2), (48, 80, 9), (64, 80, 0), (80, 48, 0)]
    images = [image_input(*size, seed=i) for i, size in enumerate(sizes)]
    boxes = images[0]["instances"].gt_boxes.tensor
    boxes[:2, 2:] = boxes[:2, :2]
    return images


def detector(kind: str) -> nn.Module:
    if kind != "hybrid":
        return tiny_detector(kind)
    model = tiny_detector("two_stage", one2many=30, refinement=LookForwardTwice())
    model.criterion = HybridCriterion(
        num_classes=3, matcher=HungarianMatcher(), weights=LossWeights(), num_repeats=4, one2many_weight=0.7
    )
    return model


def gradients(model: nn.Module, images: list[dict], parts: int) -> tuple[dict[str, torch.Tensor], ...]:
    model.zero_grad()
    losses = accumulate_gradients(
        model, split_batch(images, parts), context=nullcontext, scale=lambda x: x, timer=PhaseTimer(CPU)
    )
    return losses, {name: p.grad.clone() for name, p in model.named_parameters()}


def assert_same_gradients(actual: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    """Up to the rounding of float32; some gradients are 0 but for rounding, as of a bias before a norm."""
    assert actual.keys() == expected.keys()
    largest = max(float(value.abs().max()) for value in expected.values())
    for name, value in expected.items():
        torch.testing.assert_close(actual[name], value, rtol=1e-3, atol=1e-5 * largest)


@pytest.mark.parametrize("kind", ["plain", "two_stage", "hybrid"])
@pytest.mark.parametrize("parts", [2, 3, 8])
def test_parts_have_the_losses_and_gradient_of_the_batch(kind, parts):
    model = detector(kind)
    losses, expected = gradients(model, batch(), 1)
    parts_losses, actual = gradients(model, batch(), parts)
    torch.testing.assert_close(parts_losses, losses, rtol=1e-4, atol=1e-5)
    assert_same_gradients(actual, expected)


@pytest.mark.parametrize(("kind", "batching"), [("hybrid", PadImages()), ("plain", PadFeatures())])
def test_without_any_object_and_with_either_padding(kind, batching):
    model = detector(kind)
    model.train_batching = batching
    images = [image_input(64, 96, 0, seed=1), image_input(96, 64, 0, seed=2), image_input(64, 64, 0, seed=3)]
    assert_same_gradients(gradients(model, images, 3)[1], gradients(model, images, 1)[1])


def test_a_part_alone_would_be_divided_by_its_own_objects():
    """What the tests above would not notice if all parts had the same number of objects."""
    model, images = detector("plain"), batch()
    _, expected = gradients(model, images, 1)
    model.zero_grad()
    for part in split_batch(images, 2):
        (sum(model(part).values()) / 2).backward()
    with pytest.raises(AssertionError):
        assert_same_gradients({name: p.grad for name, p in model.named_parameters()}, expected)


def _train(model: nn.Module, accumulate: int, images: list[dict]) -> Trainer:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    trainer = Trainer(
        model, itertools.repeat(images), optimizer, device=CPU, accumulate=accumulate, clip_grad={"max_norm": 0.1}
    )
    trainer.train(0, 3)
    return trainer


def test_updates_and_metrics_are_those_of_the_batch():
    whole, parts = (_train(detector("hybrid"), accumulate, batch()) for accumulate in (1, 4))
    for name in ("total_loss", "loss_class_1_one2many", "grad_norm", "forward_time"):
        values = [[x for x, _ in trainer.storage.history(name).values()] for trainer in (whole, parts)]
        assert len(values[0]) == len(values[1]) == 3  # one row for an update
        if name != "forward_time":
            assert values[1] == pytest.approx(values[0], rel=1e-3)
    for one, other in zip(whole.model.parameters(), parts.model.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


def _one_of_two(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    model = DistributedDataParallel(detector("hybrid"))
    _, found = gradients(model, split_batch(batch(), 2)[rank], 2)
    if rank == 0:
        torch.save({name.removeprefix("module."): value for name, value in found.items()}, f"{folder}/gradients.pth")
    dist.destroy_process_group()


def test_two_processes_in_two_parts_each_have_the_gradient_of_one_with_the_whole_batch(tmp_path: Path):
    """A part of the second one has no objects. Both processes pad to the same size."""
    mp.spawn(_one_of_two, (str(tmp_path),), nprocs=2)
    _, expected = gradients(detector("hybrid"), batch(), 1)
    assert_same_gradients(torch.load(tmp_path / "gradients.pth"), expected)


def test_a_model_without_whole_batch_is_refused():
    class Model(nn.Linear):
        def forward(self, batch):
            return {"loss": self.weight.sum()}

    with pytest.raises(ConfigError, match=r"train.accumulate=2: Model.forward does not take whole_batch"):
        _train(Model(2, 2), 2, batch())


class SpoilsElevenObjects(nn.Module):
    """A criterion's place: its losses are NaN where the images hold eleven objects, as the third of four parts does."""

    def __init__(self, criterion: nn.Module):
        super().__init__()
        self.criterion = criterion

    def forward(self, outputs, targets, *num_boxes):
        factor = float("nan") if sum(len(target) for target in targets) == 11 else 1.0
        return {name: loss * factor for name, loss in self.criterion(outputs, targets, *num_boxes).items()}


def test_a_part_whose_loss_is_not_finite_stops_the_step(tmp_path):
    model = detector("plain")
    model.criterion = SpoilsElevenObjects(model.criterion)
    before = [p.clone() for p in model.parameters()]
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    trainer = Trainer(model, itertools.repeat(batch()), optimizer, device=CPU, accumulate=4, output_dir=str(tmp_path))
    with pytest.raises(FloatingPointError, match=r"not finite at iteration 0: .* layer: criterion "):
        trainer.train(0, 1)
    assert all(torch.equal(one, other) for one, other in zip(before, model.parameters(), strict=True))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_mixed_precision_is_around_the_whole_model_but_not_the_matching_and_the_losses(dtype, monkeypatch):
    costs = []
    original = HungarianMatcher.cost

    def record(*args):
        costs.append((original(*args).dtype, torch.is_autocast_enabled("cpu")))
        return original(*args)

    monkeypatch.setattr(HungarianMatcher, "cost", record)
    model, seen = detector("hybrid"), {}
    for name in (
        "backbone.stem",
        "neck.convs.0.conv",
        "transformer.encoder.layers.0.ffn",
        "transformer.decoder.heads.0",
    ):
        model.get_submodule(name).register_forward_hook(
            lambda _, __, out, name=name: seen.update({name: out.dtype if torch.is_tensor(out) else out[0].dtype})
        )
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    trainer = Trainer(model, itertools.repeat(batch()), optimizer, device=CPU, amp_dtype=dtype)
    model.criterion.register_forward_hook(
        lambda _, __, losses: seen.update({"losses": {loss.dtype for loss in losses.values()}})
    )
    trainer.train(0, 1)
    assert seen.pop("losses") == {torch.float32}
    assert len(seen) == 4
    assert set(seen.values()) == {getattr(torch, dtype)}
    assert set(costs) == {(torch.float32, False)}
    assert all(p.dtype == torch.float32 for p in model.parameters())
