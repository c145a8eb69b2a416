"""Ends a run whose metric no longer rises."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from detectron2.engine import HookBase
from detectron2.utils import comm

from detrex.config.validation import ConfigError

if TYPE_CHECKING:
    from .hooks import Evaluation

__all__ = ["EarlyStopping", "StoppedEarly"]

logger = logging.getLogger(__name__)


class StoppedEarly(BaseException):
    """Ends the loop of steps, and is no error: :class:`detrex.engine.Trainer` returns as at the end of a run."""


class EarlyStopping(HookBase):
    """Ends training after ``patience`` evaluations in a row that did not raise the best value of a metric.

    To be registered in all processes, after the evaluation and what writes metrics. What was counted is saved: a
    resumed run stops where the run that was never killed does, and a stopped one stops again unless its patience grew.

    Args:
        evaluation: whose results it looks at; one without a result does not count.
        finish: saves the final weights, called in all processes.
        metric: higher is better. patience: evaluations. min_delta: by less than this a value does not rise.

    Raises:
        ConfigError: no metric, or a negative number.
    """

    def __init__(
        self, evaluation: Evaluation, finish: Callable[[], Any], *, metric: str, patience: int, min_delta: float = 0.0
    ):
        if not metric or patience < 1 or min_delta < 0:
            raise ConfigError(
                f"train.early_stopping needs a metric in train.checkpointer.best ({metric!r}), patience ({patience}) "
                f"of at least one evaluation and min_delta ({min_delta}) of at least 0"
            )
        self._evaluation, self._finish = evaluation, finish
        self._metric, self._patience, self._min_delta = metric, patience, min_delta
        self._judged, self._best, self._stale, self._finished = -1, None, 0, False

    def before_train(self) -> None:
        self._look(self.trainer.start_iter - 1)  # the evaluation may have been made up for just now

    def after_step(self) -> None:
        self._look(self.trainer.iter)

    def _look(self, iteration: int) -> None:
        if self._evaluation.evaluated != iteration or iteration < 0:
            return
        if comm.is_main_process() and self._judged < iteration:
            self._judged = iteration
            self._judge(self._evaluation.metrics.get(self._metric))
        if not comm.all_gather(self._stale >= self._patience)[0]:
            self._finished = False  # a resumed run may have more patience
            return
        self.trainer.iter = iteration
        logger.info(
            "Stopped early after iteration %d: %d evaluations in a row have not raised %s above %s",
            iteration,
            self._stale,
            self._metric,
            self._best,
        )
        if not self._finished:
            self._finished = True
            self._finish()
        raise StoppedEarly

    def _judge(self, value: float | None) -> None:
        if value is None:
            logger.warning("train.early_stopping: the evaluation gave no %s and does not count", self._metric)
        elif self._best is None or value > self._best + self._min_delta:
            self._best, self._stale = value, 0
        else:
            self._stale += 1

    def state_dict(self) -> dict[str, Any]:
        return {"judged": self._judged, "best": self._best, "stale": self._stale, "finished": self._finished}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._judged, self._best = state["judged"], state["best"]
        self._stale, self._finished = state["stale"], state["finished"]
