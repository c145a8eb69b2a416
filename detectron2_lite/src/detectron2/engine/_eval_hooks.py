"""Hooks that evaluate, and that keep the best model."""

import json
import logging
import math
import operator
import os
from collections.abc import Callable, Mapping
from typing import Any

from detectron2.utils import comm
from detectron2.utils.file_io import PathManager
from fvcore.common.checkpoint import Checkpointer

from .train_loop import HookBase, TrainerBase

logger = logging.getLogger("detectron2.engine.hooks")


class EvalHook(HookBase):
    """Evaluates every ``eval_period`` iterations and after training, and stores the results.

    To be registered in all processes or in none, as they wait for each other after an evaluation.

    Args:
        eval_period: 0 for no evaluation during training.
        eval_function: returns a nested dict of numbers, stored as "task/metric"; or something empty.
        eval_after_train: evaluate after the last iteration, if training succeeded.
    """

    def __init__(
        self, eval_period: int, eval_function: Callable[[], Mapping[str, Any] | None], eval_after_train: bool = True
    ) -> None:
        self._period = eval_period
        self._func = eval_function
        self._eval_after_train = eval_after_train

    def _do_eval(self) -> None:
        from detectron2.evaluation.testing import flatten_results_dict

        results = self._func()
        if results:
            if not isinstance(results, Mapping):
                raise TypeError(f"The evaluation function returned {results!r}, not a dict")
            numbers = {}
            for name, value in flatten_results_dict(results).items():
                try:
                    numbers[name] = float(value)
                except (TypeError, ValueError) as error:
                    raise ValueError(f"The evaluation function returned {name}={value!r}, not a number") from error
            self.trainer.storage.put_scalars(**numbers, smoothing_hint=False)
        # Ranks differ in speed; without a barrier the first one's next collective could time out.
        comm.synchronize()

    def after_step(self) -> None:
        if _is_eval_step(self.trainer, self._period):
            self._do_eval()

    def after_train(self) -> None:
        if self._eval_after_train and self.trainer.iter >= self.trainer.max_iter:
            self._do_eval()
        del self._func  # a closure over the trainer would keep it alive


def _is_eval_step(trainer: TrainerBase, period: int) -> bool:
    """The last iteration is left to after_train."""
    done = trainer.iter + 1
    return period > 0 and done % period == 0 and done != trainer.max_iter


class BestCheckpointer(HookBase):
    """Saves the model whenever a metric is better than ever before, also over interruptions of training.

    To be registered after the EvalHook. The best value is in the trainer's checkpoints, and beside the saved model in
    ``<file_prefix>.json``: the checkpoint to resume from may be older than the last evaluation.

    Args:
        eval_period: that of the EvalHook.
        checkpointer: saves the model as ``<file_prefix>.pth``.
        val_metric: the name of a stored scalar, such as "bbox/AP50".
        mode: "max" or "min".
        file_prefix: see above.
    """

    def __init__(
        self,
        eval_period: int,
        checkpointer: Checkpointer,
        val_metric: str,
        mode: str = "max",
        file_prefix: str = "model_best",
    ) -> None:
        if mode not in ("max", "min"):
            raise ValueError(f"mode must be 'max' or 'min', got {mode!r}")
        self._period = eval_period
        self._checkpointer = checkpointer
        self._val_metric = val_metric
        self._compare = operator.gt if mode == "max" else operator.lt
        self._file_prefix = file_prefix
        self.best_metric: float | None = None
        self.best_iter: int | None = None

    @property
    def _record(self) -> str:
        return os.path.join(self._checkpointer.save_dir, f"{self._file_prefix}.json")

    def before_train(self) -> None:
        if self.trainer.start_iter > 0 and PathManager.isfile(self._record):
            with PathManager.open(self._record, "r") as f:
                self.load_state_dict(json.load(f))

    def _is_better(self, value: float) -> bool:
        return math.isfinite(value) and (self.best_metric is None or self._compare(value, self.best_metric))

    def _check(self) -> None:
        latest = self.trainer.storage.latest().get(self._val_metric)
        if latest is None:
            if comm.is_main_process():  # the others have no results
                logger.warning("The metric %s was not stored; no best model is saved by it.", self._val_metric)
            return
        value, iteration = latest
        better = self._is_better(value)
        verdict, best = "better" if better else "not better", f"{self.best_metric} @ iteration {self.best_iter}"
        logger.info("%s is %0.5f, %s than %s.", self._val_metric, value, verdict, best)
        if not better:
            return
        self.best_metric, self.best_iter = value, iteration
        self._checkpointer.save(self._file_prefix, iteration=iteration)
        if self._checkpointer.save_dir and self._checkpointer.save_to_disk:
            with PathManager.open(self._record, "w") as f:
                json.dump({**self.state_dict(), "metric": self._val_metric}, f)

    def after_step(self) -> None:
        if _is_eval_step(self.trainer, self._period):
            self._check()

    def after_train(self) -> None:
        if self.trainer.iter >= self.trainer.max_iter:
            self._check()

    def state_dict(self) -> dict[str, Any]:
        if self.best_metric is None:
            return {}
        return {"best_metric": self.best_metric, "best_iter": self.best_iter}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        if self._is_better(state_dict["best_metric"]):
            self.best_metric, self.best_iter = state_dict["best_metric"], state_dict["best_iter"]
