"""Learning rates from fvcore's parameter schedulers: functions of the fraction of training that is done."""

from typing import Any

import torch
from fvcore.common.param_scheduler import (
    CompositeParamScheduler,
    ConstantParamScheduler,
    LinearParamScheduler,
    ParamScheduler,
)
from torch.optim.lr_scheduler import LRScheduler


class WarmupParamScheduler(CompositeParamScheduler):
    """A warm-up over [0, warmup_length), then ``scheduler``.

    Args:
        scheduler: the schedule to warm up to.
        warmup_factor: the first value, relative to the first value of ``scheduler``.
        warmup_length: fraction of training, in [0, 1].
        warmup_method: "linear" (from the first value to that of ``scheduler`` where the warm-up ends) or "constant".
        rescale_interval: after the warm-up, run all of ``scheduler`` in the time that is left, instead of its part
            after ``warmup_length``.

    Raises:
        ValueError: another ``warmup_method``.
    """

    def __init__(
        self,
        scheduler: ParamScheduler,
        warmup_factor: float,
        warmup_length: float,
        warmup_method: str = "linear",
        rescale_interval: bool = False,
    ) -> None:
        first = warmup_factor * scheduler(0.0)
        last = scheduler(0.0 if rescale_interval else warmup_length)
        if warmup_method == "linear":
            warmup: ParamScheduler = LinearParamScheduler(first, last)
        elif warmup_method == "constant":
            warmup = ConstantParamScheduler(first)
        else:
            raise ValueError(f"warmup_method must be 'linear' or 'constant', got {warmup_method!r}")
        super().__init__(
            [warmup, scheduler],
            lengths=[warmup_length, 1 - warmup_length],
            interval_scaling=["rescaled", "rescaled" if rescale_interval else "fixed"],
        )


class LRMultiplier(LRScheduler):
    """A torch scheduler that multiplies the initial learning rate of every group by a ParamScheduler's value.

    Args:
        optimizer: its groups keep their relative learning rates.
        multiplier: the factor as a function of ``iteration / max_iter``.
        max_iter: number of iterations of the training.
        last_iter: the iteration before the first one to run; above -1, groups need an "initial_lr".

    Raises:
        ValueError: ``multiplier`` is something else, such as a torch scheduler.
    """

    def __init__(
        self, optimizer: torch.optim.Optimizer, multiplier: ParamScheduler, max_iter: int, last_iter: int = -1
    ) -> None:
        if not isinstance(multiplier, ParamScheduler):
            raise ValueError(f"multiplier must be an fvcore ParamScheduler, got {multiplier!r}")
        self._multiplier = multiplier
        self._max_iter = max_iter
        super().__init__(optimizer, last_epoch=last_iter)

    def state_dict(self) -> dict[str, Any]:
        """The part that changes; the schedule itself comes from the config."""
        return {"base_lrs": self.base_lrs, "last_epoch": self.last_epoch}

    def get_lr(self) -> list[float]:
        """Learning rate of each group at the current iteration."""
        factor = self._multiplier(self.last_epoch / self._max_iter)
        return [base_lr * factor for base_lr in self.base_lrs]
