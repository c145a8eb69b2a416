"""Durations in epochs, and learning rates that scale with the run."""

from __future__ import annotations

import logging
from fractions import Fraction

import pytest
import torch
from detectron2.config import instantiate
from detectron2.solver import LRMultiplier
from omegaconf import OmegaConf

from detrex.config import ConfigError, get_config
from detrex.solver.lr_schedule import describe_lr, duration_to_iters, lr_changes, resolve_durations, with_warmup


def make_cfg(batch: int = 16, schedule: str = "lr_multiplier_50ep", **train):
    cfg = OmegaConf.create({"dataloader": {"train": {"total_batch_size": batch}}}, flags={"allow_objects": True})
    cfg.train = get_config("common/train.py").train
    cfg.lr_multiplier = get_config("common/coco_schedule.py")[schedule]
    for key, value in train.items():
        OmegaConf.update(cfg.train, key, value)
    return cfg


@pytest.mark.parametrize(
    ("value", "iters"),
    [(7, 7), (0, 0), (9e4, 90000), ("1ep", 7), ("2ep", 13), ("0.5ep", 4), (".1ep", 1), ("0ep", 0), ("3 epochs", 19)],
)
def test_durations(value, iters):
    """100 images in batches of 16 are 6.25 iterations per epoch; durations round up."""
    assert duration_to_iters(value, iters_per_epoch=Fraction(100, 16), name="x") == iters


def test_durations_are_exact():
    assert duration_to_iters("0.1ep", iters_per_epoch=Fraction(30), name="x") == 3  # 0.1 * 30 > 3 in floating point


@pytest.mark.parametrize("value", ["12", "ep", "12e", "-1ep", -1, 0.5, True, None, "1ep 2ep"])
def test_what_is_no_duration(value):
    with pytest.raises(ConfigError, match=r"train\.max_iter=.* is not a duration"):
        duration_to_iters(value, iters_per_epoch=Fraction(10), name="train.max_iter")


def test_durations_become_iterations_in_place_and_are_logged(caplog):
    cfg = make_cfg(max_iter="12ep", warmup="0.5ep", eval_period="2ep", log_period=5)
    with caplog.at_level(logging.INFO, logger="detrex"):
        schedule = resolve_durations(cfg, 100)
    assert (cfg.train.max_iter, cfg.train.warmup, cfg.train.eval_period, cfg.train.log_period) == (75, 4, 13, 5)
    assert (schedule.max_iter, schedule.checkpoint_period) == (75, cfg.train.checkpointer.period) == (75, 7)
    assert "100 images / batch 16 = 6.25 iterations per epoch; 75 iterations (12 ep) in all" in caplog.text
    assert "warm-up 4 iterations (0.64 ep)" in caplog.text
    assert "evaluation every 13 iterations (2.08 ep) and at the end" in caplog.text


def test_coco_takes_the_published_number_of_iterations():
    assert resolve_durations(make_cfg(), 117266).max_iter == 366457  # 50 epochs of the annotated images


@pytest.mark.parametrize(
    ("options", "size", "message"),
    [
        ({"max_iter": 0}, 10, "at least one iteration"),
        ({"log_period": 0}, 10, "at least one iteration"),
        ({"max_iter": 10, "warmup": 10}, 10, "train.warmup is 10 iterations, the whole run only 10"),
        ({}, 0, "no images"),
        ({"batch": 0}, 10, "total_batch_size=0 must be a positive number"),
    ],
)
def test_impossible_schedules(options, size, message):
    with pytest.raises(ConfigError, match=message):
        resolve_durations(make_cfg(**options), size)


@pytest.mark.parametrize(("epochs", "drop"), [(12, 11), (24, 20), (36, 30), (50, 40)])
@pytest.mark.parametrize("images", [100, 117266])
def test_named_schedules_drop_once_at_their_epoch(epochs, drop, images):
    cfg = make_cfg(schedule=f"lr_multiplier_{epochs}ep", max_iter=f"{epochs}ep")
    schedule = resolve_durations(cfg, images)
    ((iteration, value),) = lr_changes(instantiate(cfg.lr_multiplier), schedule.max_iter)
    assert value == pytest.approx(0.1)
    assert iteration == pytest.approx(drop * float(schedule.iters_per_epoch), abs=1.01)


@pytest.mark.parametrize("max_iter", [10, 25, "3ep", "50ep"])
def test_a_short_run_sees_its_drop(max_iter):
    """Steps an optimizer as the trainer does."""
    cfg = make_cfg(max_iter=max_iter)
    n = resolve_durations(cfg, 100).max_iter
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    stepper = LRMultiplier(optimizer, instantiate(cfg.lr_multiplier), n)
    rates = []
    for _ in range(n):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        stepper.step()
    drop = -(-n * 4 // 5)
    assert rates == pytest.approx([1.0] * drop + [0.1] * (n - drop))


@pytest.mark.parametrize("name", ["lr_multiplier_cosine", "lr_multiplier_constant", "lr_multiplier_12ep"])
def test_schedules_are_defined_up_to_the_very_end(name):
    """The scheduler steps once more after the last iteration."""
    cfg = make_cfg(schedule=name, max_iter=20, warmup=4)
    resolve_durations(cfg, 100)
    scheduler = instantiate(cfg.lr_multiplier)
    assert 0 < scheduler(1.0) <= 1
    assert scheduler(0.0) == pytest.approx(0.001)
    assert scheduler(4 / 20) == pytest.approx({"cosine": 0.905}.get(name.split("_")[-1], 1.0), abs=1e-3)
    assert scheduler(2 / 20) < scheduler(3 / 20) < scheduler(4 / 20)


def test_no_warmup_is_the_scheduler_itself():
    marker = object()
    assert with_warmup(scheduler=marker, warmup=0, max_iter=10) is marker


def test_the_learning_rate_in_words():
    cfg = make_cfg(max_iter="50ep", warmup=10)
    schedule = resolve_durations(cfg, 160)
    assert describe_lr(instantiate(cfg.lr_multiplier), schedule, 1e-4) == (
        "Learning rate: 0.0001 from iteration 10, 1e-05 at iteration 400 (40 ep)"
    )
    cfg = make_cfg(schedule="lr_multiplier_cosine", max_iter=100)
    words = describe_lr(instantiate(cfg.lr_multiplier), resolve_durations(cfg, 160), 1.0)
    assert words.startswith("Learning rate: 1 from iteration 0, 0.855 at iteration 25 (2.5 ep), 0.505 at iteration 50")
