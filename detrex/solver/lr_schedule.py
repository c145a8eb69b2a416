"""Durations in epochs, and learning rates as fractions of the run.

An epoch is ``dataset size / total batch size`` iterations, not rounded; a duration rounds up to whole iterations.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise

from detectron2.solver import WarmupParamScheduler
from fvcore.common.param_scheduler import ParamScheduler
from omegaconf import DictConfig, OmegaConf

from detrex.config import ConfigError
from detrex.config.values import DURATION_KEYS, EPOCHS

__all__ = [
    "Schedule",
    "describe_lr",
    "duration_to_iters",
    "lr_changes",
    "resolve_durations",
    "with_warmup",
]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Schedule:
    """A run's durations in iterations.

    Attributes:
        iters_per_epoch: dataset size / total batch size, exact.
        max_iter, warmup, eval_period, log_period, checkpoint_period: iterations; a period of 0 means "only at the end".
    """

    iters_per_epoch: Fraction
    max_iter: int
    warmup: int
    eval_period: int
    log_period: int
    checkpoint_period: int

    def epochs(self, iters: int) -> str:
        """``iters`` iterations in epochs, for people."""
        return f"{float(iters / self.iters_per_epoch):.4g} ep"


def duration_to_iters(value: int | str, *, iters_per_epoch: Fraction | float, name: str) -> int:
    """Iterations of a duration: an int is iterations already, ``"12ep"`` or ``"0.5ep"`` counts epochs.

    A positive number of epochs is at least one iteration.

    Args:
        value: the duration. iters_per_epoch: length of an epoch. name: its key, for the error.

    Raises:
        ConfigError: if ``value`` is neither, or negative.
    """
    if isinstance(value, float) and value.is_integer():  # 9e4
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    match = EPOCHS.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise ConfigError(f'{name}={value!r} is not a duration: give iterations (5000) or epochs ("12ep", "0.5ep")')
    # Fractions, because ceil(0.1 * 30) is 4 in floating point.
    return math.ceil(Fraction(match[1]) * Fraction(iters_per_epoch))


def resolve_durations(cfg: DictConfig, dataset_size: int) -> Schedule:
    """Replace every duration in ``cfg.train`` by its number of iterations, in place, and log both.

    Args:
        cfg: needs ``train`` and ``dataloader.train.total_batch_size``.
        dataset_size: number of training images.

    Raises:
        ConfigError: a value that is no duration, a run or a log period of 0 iterations, a warm-up longer than the run,
            no total batch size, or no training images.
    """
    batch = OmegaConf.select(cfg, "dataloader.train.total_batch_size")
    if not isinstance(batch, int) or batch < 1:
        raise ConfigError(f"dataloader.train.total_batch_size={batch!r} must be a positive number of images")
    if dataset_size < 1:
        raise ConfigError("the training set has no images, so an epoch has no length")
    per_epoch = Fraction(dataset_size, batch)
    iters = {}
    for key in DURATION_KEYS:
        value = OmegaConf.select(cfg.train, key)
        iters[key] = duration_to_iters(value, iters_per_epoch=per_epoch, name=f"train.{key}")
        OmegaConf.update(cfg.train, key, iters[key])
    schedule = Schedule(per_epoch, *(iters[key] for key in DURATION_KEYS))
    if schedule.max_iter < 1 or schedule.log_period < 1:
        raise ConfigError("train.max_iter and train.log_period must be at least one iteration")
    if schedule.warmup >= schedule.max_iter:
        raise ConfigError(f"train.warmup is {schedule.warmup} iterations, the whole run only {schedule.max_iter}")
    _log(schedule, dataset_size, batch)
    return schedule


def _log(schedule: Schedule, dataset_size: int, batch: int) -> None:
    def both(iters: int) -> str:
        return f"{iters} iterations ({schedule.epochs(iters)})"

    def period(iters: int) -> str:
        return f"every {both(iters)} and at the end" if iters else "at the end"

    logger.info(
        "Schedule: %d images / batch %d = %.4g iterations per epoch; %s in all; warm-up %s; evaluation %s; "
        "checkpoint %s",
        dataset_size,
        batch,
        float(schedule.iters_per_epoch),
        both(schedule.max_iter),
        both(schedule.warmup) if schedule.warmup else "none",
        period(schedule.eval_period),
        period(schedule.checkpoint_period),
    )


def with_warmup(
    *,
    scheduler: ParamScheduler,
    warmup: int,
    max_iter: int,
    warmup_factor: float = 0.001,
    warmup_method: str = "linear",
) -> ParamScheduler:
    """``scheduler`` with its first ``warmup`` iterations replaced by a warm-up to the value it has then.

    Args:
        scheduler: maps the fraction of the run done, in [0, 1], to a multiplier of the learning rate.
        warmup, max_iter: iterations.
        warmup_factor: the multiplier at iteration 0, relative to the scheduler's own.
        warmup_method: "linear" or "constant".
    """
    if warmup == 0:
        return scheduler
    return WarmupParamScheduler(scheduler, warmup_factor, warmup / max_iter, warmup_method=warmup_method)


def lr_changes(scheduler: ParamScheduler, max_iter: int, *, first: int = 0) -> list[tuple[int, float]]:
    """(iteration, multiplier) where a step schedule changes from iteration ``first`` on; exact, by bisection.

    Meant for piecewise constant schedules: looks at 1,000 points, so a smooth one gives about 1,000 changes.
    """

    def value(i: int) -> float:
        return scheduler(i / max_iter)

    points = sorted({first + (max_iter - 1 - first) * k // 1000 for k in range(1001)})
    changes = []
    for before, after in pairwise(points):
        old, low, high = value(before), before, after
        if old == value(after):
            continue
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if value(middle) == old else (low, middle)
        changes.append((high, value(high)))
    return changes


def describe_lr(scheduler: ParamScheduler, schedule: Schedule, base_lr: float) -> str:
    """The learning rate over the run in one sentence, in iterations and epochs."""
    changes = lr_changes(scheduler, schedule.max_iter, first=schedule.warmup)
    parts = [f"{base_lr * scheduler(schedule.warmup / schedule.max_iter):.3g} from iteration {schedule.warmup}"]
    if len(changes) > 10:
        points = sorted({schedule.max_iter * k // 4 for k in (1, 2, 3)} | {schedule.max_iter - 1})
        changes = [(i, scheduler(i / schedule.max_iter)) for i in points if i > schedule.warmup]
    parts += [f"{base_lr * value:.3g} at iteration {i} ({schedule.epochs(i)})" for i, value in changes]
    return "Learning rate: " + ", ".join(parts)
