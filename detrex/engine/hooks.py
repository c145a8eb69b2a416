"""Hooks of a run: learning rate, averaged weights, checkpoints, evaluation, early stopping."""

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
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from detrex.checkpoint import Checkpointer
from detrex.config.instantiation import build
from detrex.config.validation import ConfigError
from detrex.data.loader import EvaluationImageError
from detrex.distributed.parallel import broadcast_buffers
from detrex.distributed.signals import StopOnSignal
from detrex.distributed.watchdog import StallWatch
from detrex.solver.lr_schedule import Schedule

from .batch_size import max_rss_mb
from .progress import ProgressLine
from .writers import Writers

__all__ = [
    "EarlyStopping",
    "Evaluation",
    "LRScheduler",
    "MemoryStats",
    "ModelEMA",
    "SaveCheckpoints",
    "StoppedEarly",
    "build_hooks",
]

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


class ModelEMA(HookBase):
    """Exponential moving average of the parameters (Polyak and Juditsky, 1992); buffers are those of the model.

    After n updates the average moves by the share ``1 - min(decay, (1 + n) / (10 + n))`` towards the model, so that in
    a short or a young run it is not still near the weights of the beginning.

    Register it in all processes, before the hooks that save or evaluate.

    Args:
        model: the one that is trained, with its final layers; may be wrapped in ``DistributedDataParallel``.
        decay: in [0, 1).

    Raises:
        ConfigError: for another ``decay``.
    """

    def __init__(self, model: nn.Module, *, decay: float):
        if not 0 <= decay < 1:
            raise ConfigError(f"train.ema.decay={decay} must be at least 0 and below 1")
        self._source = model.module if isinstance(model, DistributedDataParallel) else model
        self._averaged, self._decay, self._updates = AveragedModel(self._source), decay, 0
        self._resumed: Mapping[str, Any] | None = None

    @property
    def model(self) -> nn.Module:
        """The averaged model."""
        return self._averaged.module

    def before_train(self) -> None:
        if self._resumed is not None:
            self._averaged = AveragedModel(self._source)  # anew: loading may have changed the layers of the model
            self._averaged.load_state_dict(self._resumed)
            self._resumed = None

    def after_step(self) -> None:
        self._averaged.multi_avg_fn = get_ema_multi_avg_fn(min(self._decay, (1 + self._updates) / (10 + self._updates)))
        self._averaged.update_parameters(self._source)
        self._updates += 1

    def state_dict(self) -> dict[str, Any]:
        return {"updates": self._updates, "averaged": self._averaged.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._updates, self._resumed = state["updates"], state["averaged"]


class SaveCheckpoints(HookBase):
    """Saves every ``period`` iterations as ``model_<iteration>.pth``, but at the end as ``model_final.pth``.

    At the end the average of the weights, if there is one, is saved alone as ``model_final_ema.pth``.

    Register it in all processes, before the evaluation: an evaluation that is interrupted is rerun on resume, and no
    iteration is lost to it. ``model_final.pth`` is written once more at the end, with the state of the last evaluation.

    Args:
        checkpointer: saves the run.
        period: in iterations; 0 saves at the end only.
        keep: number of files ``model_<iteration>.pth`` to keep; None keeps all.
        ema: the average, registered before.
    """

    def __init__(self, checkpointer: Checkpointer, *, period: int, keep: int | None, ema: ModelEMA | None = None):
        self._checkpointer, self._period, self._keep, self._ema = checkpointer, period, keep, ema

    def after_step(self) -> None:
        iteration = self.trainer.iter
        if iteration + 1 == self.trainer.max_iter:
            self.finish()
        elif self._period and (iteration + 1) % self._period == 0:
            self.save()

    def after_train(self) -> None:
        if self.trainer.iter >= self.trainer.max_iter:
            self._checkpointer.save("model_final", iteration=self.trainer.max_iter - 1)

    def finish(self) -> None:
        """Save as at the end of the run; the file that is resumed from comes last."""
        iteration = self.trainer.iter
        _share_buffers(self._checkpointer, self._ema)
        if self._ema is not None:
            self._checkpointer.save_weights("model_final", ema=self._ema.model, iteration=iteration)
        self._checkpointer.save("model_final", iteration=iteration)

    def save(self) -> None:
        """Save now."""
        iteration = self.trainer.iter
        _share_buffers(self._checkpointer, self._ema)
        self._checkpointer.save(f"model_{iteration:07d}", iteration=iteration)
        if self._keep is not None:
            self._checkpointer.remove_older(iteration, keep=self._keep)


def _share_buffers(checkpointer: Checkpointer, ema: ModelEMA | None) -> None:
    """Running statistics of the first process for all: the file, and every share of an evaluation, have the same."""
    broadcast_buffers(checkpointer.model)
    if ema is not None:
        broadcast_buffers(ema.model)


class Evaluation(HookBase):
    """Evaluates every ``period`` iterations and after the last one, and keeps the best weights as ``model_best.pth``.

    Where weights are averaged, the average is evaluated, and the best is ``model_best_ema.pth``.

    Register it in all processes. A run that resumes from before an evaluation that was due reruns it first. An image
    that cannot be read costs the evaluation its result, not the run its life, as long as it is one process.

    Args:
        function: evaluates a model; returns metrics to record (nothing in all processes but the first).
        period: in iterations; 0 evaluates after the last one only.
        checkpointer: saves the best weights.
        best: the metric that tells; "" keeps no best weights.
        ema: the average.

    Attributes:
        evaluated: the last iteration that was evaluated, or -1.
        metrics: what that gave.
    """

    def __init__(
        self,
        function: Callable[[nn.Module], Mapping[str, float]],
        *,
        period: int,
        checkpointer: Checkpointer,
        best: str = "",
        ema: ModelEMA | None = None,
    ):
        self._function, self._period, self._checkpointer = function, period, checkpointer
        self._metric, self._ema = best, ema
        self.evaluated, self.metrics = -1, {}
        self._best: tuple[float, int] | None = None
        self._pending = False

    def before_train(self) -> None:
        last = self.trainer.start_iter - 1
        if self.evaluated < last and (self._pending or self._is_due(last)):
            self._evaluate(last)

    def after_step(self) -> None:
        if self._is_due(self.trainer.iter):
            self._evaluate(self.trainer.iter)

    def _is_due(self, iteration: int) -> bool:
        done = iteration + 1
        return done == self.trainer.max_iter or (self._period > 0 and done % self._period == 0)

    def _evaluate(self, iteration: int) -> None:
        self.trainer.storage.iter = iteration
        _share_buffers(self._checkpointer, self._ema)
        try:
            metrics = self._function(self._checkpointer.model if self._ema is None else self._ema.model)
        except EvaluationImageError as e:
            if comm.get_world_size() > 1:  # the others would wait for this process
                raise
            logger.error(
                "The evaluation of iteration %d failed and has no result; training continues: %s", iteration, e
            )
            metrics = {}
        self.trainer.storage.put_scalars(**metrics, smoothing_hint=False)
        self.evaluated, self.metrics, self._pending = iteration, metrics, False
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
        last = min(self.trainer.iter, self.trainer.max_iter - 1)
        # A resumed run may have another period or length: what was due when this was saved stays due.
        pending = self.evaluated < last and self._is_due(last)
        return {"evaluated": self.evaluated, "best": self._best, "pending": pending}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.evaluated, self._pending = state["evaluated"], state.get("pending", False)
        self._best = None if state["best"] is None else tuple(state["best"])


class StoppedEarly(BaseException):
    """Ends the loop of steps, and is no error: :class:`detrex.engine.Trainer` returns as at the end of a run."""


class EarlyStopping(HookBase):
    """Ends training after ``patience`` evaluations in a row that did not raise the best value of a metric.

    Register it in all processes, after the evaluation and the writers. The count is saved: a resumed run stops where
    the run that was never killed does, and a stopped one stops again unless its patience grew.

    Args:
        evaluation: whose results it looks at; one without a result does not count.
        finish: saves the final weights, called in all processes.
        metric: higher is better.
        patience: in evaluations.
        min_delta: a value that is higher by less than this is not an improvement.

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
        self._look(self.trainer.start_iter - 1)  # the evaluation may have been rerun just now

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
        message = "Stopped early after iteration %d: %d evaluations in a row have not raised %s above %s"
        logger.info(message, iteration, self._stale, self._metric, self._best)
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


def build_hooks(
    cfg: DictConfig,
    *,
    schedule: Schedule,
    scheduler: ParamScheduler,
    checkpointer: Checkpointer,
    evaluate: Callable[[nn.Module], Mapping[str, float]],
) -> list[HookBase | None]:
    """Build everything around the steps, the same in all processes.

    Register them before a checkpoint is loaded, since it restores their state.

    Args:
        cfg: for ``train.checkpointer``, ``ema``, ``early_stopping``, ``hooks``, ``progress_line`` and ``output_dir``.
        schedule: the run's durations.
        scheduler: multiplier of the learning rate.
        checkpointer: saves the run, and has the model.
        evaluate: from a model to metrics to record.

    Raises:
        ConfigError: a value that cannot be.
    """
    options, early = cfg.train.checkpointer, cfg.train.early_stopping
    ema = ModelEMA(checkpointer.model, decay=cfg.train.ema.decay) if cfg.train.ema.enabled else None
    saving = SaveCheckpoints(checkpointer, period=schedule.checkpoint_period, keep=options.max_to_keep, ema=ema)
    evaluation = Evaluation(
        evaluate, period=schedule.eval_period, checkpointer=checkpointer, best=options.best, ema=ema
    )
    early_stopping = progress = None
    if early.patience:
        limits = {"patience": early.patience, "min_delta": early.min_delta}
        early_stopping = EarlyStopping(evaluation, saving.finish, metric=options.best, **limits)
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
        *(build(cfg, f"train.hooks.{index}") for index in range(len(cfg.train.hooks))),
        Writers(cfg.train.output_dir, schedule),
        early_stopping,
        StopOnSignal(saving.save),
    ]
