"""Hooks of a run, in the order in which they act."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

import torch
from detectron2.engine import HookBase, hooks
from detectron2.utils import comm
from fvcore.common.param_scheduler import ParamScheduler
from omegaconf import DictConfig
from torch import nn

from detrex.checkpoint import Checkpointer
from detrex.distributed.signals import StopOnSignal
from detrex.distributed.watchdog import StallWatch
from detrex.solver.lr_schedule import Schedule

from .early_stopping import EarlyStopping
from .ema import ModelEMA
from .memory import max_rss_mb
from .progress import ProgressLine
from .writers import Writers

__all__ = ["Evaluation", "LRScheduler", "MemoryStats", "SaveCheckpoints", "build_hooks"]

logger = logging.getLogger(__name__)


class LRScheduler(hooks.LRScheduler):
    """Steps the schedule and records ``lr``, the rate of the parameters that have no factor below 1.

    The base class records the rate of the group with the most parameters, which tends to be the backbone's tenth.
    """

    def after_step(self) -> None:
        lr = max(group["lr"] for group in self.trainer.optimizer.param_groups)
        self.trainer.storage.put_scalar("lr", lr, smoothing_hint=False)
        self.scheduler.step()


class MemoryStats(HookBase):
    """Logs the peak memory of this process after the first iteration and at the end; records it as ``max_rss_mb``."""

    def __init__(self, period: int):
        self._period = period

    def after_step(self) -> None:
        iteration = self.trainer.iter
        if (iteration + 1) % self._period == 0:
            self.trainer.storage.put_scalar("max_rss_mb", max_rss_mb(), smoothing_hint=False)
        if iteration == self.trainer.start_iter:
            self._log("after the first iteration")

    def after_train(self) -> None:
        self._log("at the end")

    def _log(self, when: str) -> None:
        gpu = f", GPU {torch.cuda.max_memory_allocated() / 2**20:.0f} MiB" if torch.cuda.is_available() else ""
        logger.info("Peak memory %s: process %.0f MiB%s", when, max_rss_mb(), gpu)


class SaveCheckpoints(HookBase):
    """Saves every ``period`` iterations as ``model_<iteration>.pth``, but at the end as ``model_final.pth``.

    At the end the average of the weights, if there is one, is saved alone as ``model_final_ema.pth``.

    To be registered in all processes, before the evaluation: an evaluation that did not finish is then made up for
    when the run resumes, and no iteration is lost to it.

    Args:
        checkpointer: saves the run. period: in iterations; 0 saves at the end only.
        keep: number of files ``model_<iteration>.pth`` to keep; None keeps all. ema: the average, registered before.
    """

    def __init__(self, checkpointer: Checkpointer, *, period: int, keep: int | None, ema: ModelEMA | None = None):
        self._checkpointer, self._period, self._keep, self._ema = checkpointer, period, keep, ema

    def after_step(self) -> None:
        iteration = self.trainer.iter
        if iteration + 1 == self.trainer.max_iter:
            self.finish()
        elif self._period and (iteration + 1) % self._period == 0:
            self.save()

    def finish(self) -> None:
        """Save as at the end of the run; the file that is resumed from comes last."""
        iteration = self.trainer.iter
        if self._ema is not None:
            self._checkpointer.save_weights("model_final", ema=self._ema.model, iteration=iteration)
        self._checkpointer.save("model_final", iteration=iteration)

    def save(self) -> None:
        """Save now."""
        iteration = self.trainer.iter
        self._checkpointer.save(f"model_{iteration:07d}", iteration=iteration)
        if self._keep is not None:
            self._checkpointer.remove_older(iteration, keep=self._keep)


class Evaluation(HookBase):
    """Evaluates every ``period`` iterations and at the end, and keeps the best weights as ``model_best.pth``.

    Where weights are averaged, the average is evaluated, and the best is ``model_best_ema.pth``.

    To be registered in all processes. A run that resumes from before an evaluation that was due makes up for it.

    Args:
        function: evaluates a model; returns metrics to record (nothing in all processes but the first).
        period: in iterations; 0 evaluates at the end only.
        checkpointer: saves the best weights. best: the metric that tells; "" keeps no best weights.
        ema: the average. stopping: whether the run has been asked to stop: an evaluation that fails then is left for
            later.

    Attributes:
        evaluated: the last iteration that was evaluated, or -1. metrics: what that gave.

    An image that cannot be read costs the evaluation its result, not the run its life, as long as it is one process.
    """

    def __init__(
        self,
        function: Callable[[nn.Module], Mapping[str, float]],
        *,
        period: int,
        checkpointer: Checkpointer,
        best: str = "",
        ema: ModelEMA | None = None,
        stopping: Callable[[], bool] = lambda: False,
    ):
        self._function, self._period, self._checkpointer = function, period, checkpointer
        self._metric, self._ema, self._stopping = best, ema, stopping
        self.evaluated, self.metrics = -1, {}
        self._best: tuple[float, int] | None = None

    def before_train(self) -> None:
        last = self.trainer.start_iter - 1
        if self._is_due(last) and self.evaluated < last:
            self._evaluate(last)

    def after_step(self) -> None:
        if self._is_due(self.trainer.iter):
            self._evaluate(self.trainer.iter)

    def after_train(self) -> None:
        if self.trainer.iter >= self.trainer.max_iter:
            self._evaluate(self.trainer.iter)

    def _is_due(self, iteration: int) -> bool:
        """The last iteration is left to ``after_train``."""
        done = iteration + 1
        return self._period > 0 and 0 < done < self.trainer.max_iter and done % self._period == 0

    def _evaluate(self, iteration: int) -> None:
        self.trainer.storage.iter = iteration
        try:
            metrics = self._function(self._checkpointer.model if self._ema is None else self._ema.model)
        except RuntimeError:
            if not self._stopping():
                raise
            logger.warning("The evaluation of iteration %d is left for --resume", iteration)  # its workers got it too
            return
        except OSError as e:
            if e.errno is not None or comm.get_world_size() > 1:  # the disk; or the others would wait for this process
                raise
            logger.exception("The evaluation of iteration %d failed and has no result; training goes on", iteration)
            metrics = {}
        self.trainer.storage.put_scalars(**metrics, smoothing_hint=False)
        self.evaluated, self.metrics = iteration, metrics
        if self._metric and comm.all_gather(comm.is_main_process() and self._is_best(metrics, iteration))[0]:
            ema = None if self._ema is None else self._ema.model
            best = {self._metric: metrics.get(self._metric)}
            self._checkpointer.save_weights("model_best", ema=ema, iteration=iteration, metrics=best)
        comm.synchronize()  # the others would wait for the first one's best weights inside the next step

    def _is_best(self, metrics: Mapping[str, float], iteration: int) -> bool:
        value = metrics.get(self._metric)
        if value is None:
            logger.warning("train.checkpointer.best: the evaluation gave no %s", self._metric)
            return False
        if self._best is not None and value <= self._best[0]:
            logger.info("%s %.4f; the best is %.4f of iteration %d", self._metric, value, *self._best)
            return False
        self._best = (value, iteration)
        return True

    def state_dict(self) -> dict[str, Any]:
        return {"evaluated": self.evaluated, "best": self._best}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.evaluated = state["evaluated"]
        self._best = None if state["best"] is None else tuple(state["best"])


def build_hooks(
    cfg: DictConfig,
    *,
    schedule: Schedule,
    scheduler: ParamScheduler,
    checkpointer: Checkpointer,
    evaluate: Callable[[nn.Module], Mapping[str, float]],
) -> list[HookBase | None]:
    """Everything around the steps, the same in all processes.

    Register them before a checkpoint is loaded, since it restores their state.

    Args:
        cfg: for ``train.checkpointer``, ``ema``, ``early_stopping``, ``progress_line`` and ``output_dir``.
        schedule: the run's durations. scheduler: multiplier of the learning rate.
        checkpointer: saves the run, and has the model. evaluate: from a model to metrics to record.

    Raises:
        ConfigError: a value that cannot be.
    """
    options, patience = cfg.train.checkpointer, cfg.train.early_stopping.patience
    ema = ModelEMA(checkpointer.model, decay=cfg.train.ema.decay) if cfg.train.ema.enabled else None
    saving = SaveCheckpoints(checkpointer, period=schedule.checkpoint_period, keep=options.max_to_keep, ema=ema)
    stop = StopOnSignal(saving.save)
    evaluation = Evaluation(
        evaluate,
        period=schedule.eval_period,
        checkpointer=checkpointer,
        best=options.best,
        ema=ema,
        stopping=lambda: stop.received is not None,
    )
    early_stopping = None
    if patience:
        early_stopping = EarlyStopping(
            evaluation,
            saving.finish,
            metric=options.best,
            patience=patience,
            min_delta=cfg.train.early_stopping.min_delta,
        )
    progress = None
    if cfg.train.progress_line:
        batch_size = cfg.dataloader.train.total_batch_size
        progress = ProgressLine(schedule.max_iter, batch_size, metric=options.best or "bbox/AP")
    return [
        progress,
        StallWatch(cfg.train.dist_timeout),
        hooks.IterationTimer(),
        ema,
        LRScheduler(scheduler=scheduler),
        MemoryStats(schedule.log_period),
        saving,
        evaluation,
        Writers(cfg.train.output_dir, schedule),
        early_stopping,
        stop,
    ]
