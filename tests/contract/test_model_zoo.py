"""The shared configs are the same on both hosts."""

from __future__ import annotations

import pytest
from detectron2 import model_zoo
from detectron2.config import instantiate
from torch import nn


def test_data() -> None:
    dataloader = model_zoo.get_config("common/data/coco.py").dataloader
    assert dataloader.train.total_batch_size == 16
    assert dataloader.train.mapper.augmentations[0].short_edge_length == [640, 672, 704, 736, 768, 800]
    assert dataloader.test.mapper.image_format == "BGR"
    assert dataloader.evaluator.dataset_name == "coco_2017_val"


def test_optimizers() -> None:
    optimizers = model_zoo.get_config("common/optim.py")
    for name, lr, weight_decay in (("SGD", 0.02, 1e-4), ("AdamW", 1e-4, 0.1)):
        cfg = optimizers[name]
        cfg.params.model = nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2))
        groups = {group["weight_decay"]: group["lr"] for group in instantiate(cfg).param_groups}
        assert groups == {weight_decay: lr, 0.0: lr}


@pytest.mark.parametrize(("units", "drops"), [(1, (60000, 80000)), (2, (120000, 160000)), (3, (210000, 250000))])
def test_schedules(units: int, drops: tuple[int, int]) -> None:
    multiplier = instantiate(model_zoo.get_config("common/coco_schedule.py")[f"lr_multiplier_{units}x"])
    length = 90000 * units
    assert multiplier(0) == pytest.approx(0.001)
    expected = {1000: 1.0, drops[0] - 1: 1.0, drops[0] + 1: 0.1, drops[1] - 1: 0.1, drops[1] + 1: 0.01}
    for iteration, factor in expected.items():
        assert multiplier(iteration / length) == pytest.approx(factor)


def test_options() -> None:
    train = model_zoo.get_config("common/train.py").train
    assert (train.max_iter, train.amp.enabled, train.checkpointer.period, train.log_period) == (90000, False, 5000, 20)
    assert not any(train.ddp.values())
    constants = model_zoo.get_config("common/data/constants.py").constants
    assert constants.imagenet_bgr256_mean == constants.imagenet_rgb256_mean[::-1]


def test_unknown_configs() -> None:
    with pytest.raises(RuntimeError, match="no_such"):
        model_zoo.get_config("common/no_such.py")
