"""Hooks of a run, in the order in which they act."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from detectron2.engine import HookBase, hooks
from detectron2.utils import comm
from detectron2.utils.events import CommonMetricPrinter, JSONWriter, TensorboardXWriter
from fvcore.common.checkpoint import Checkpointer
from fvcore.common.param_scheduler import ParamScheduler
from omegaconf import DictConfig

from .schedule import Schedule

try:
    import resource
except ImportError:  # Windows
    resource = None

__all__ = ["LRScheduler", "MemoryStats", "build_hooks", "build_writers", "trim_metrics"]

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
            self.trainer.storage.put_scalar("max_rss_mb", _max_rss_mb(), smoothing_hint=False)
        if iteration == self.trainer.start_iter:
            self._log("after the first iteration")

    def after_train(self) -> None:
        self._log("at the end")

    def _log(self, when: str) -> None:
        gpu = f", GPU {torch.cuda.max_memory_allocated() / 2**20:.0f} MiB" if torch.cuda.is_available() else ""
        logger.info("Peak memory %s: process %.0f MiB%s", when, _max_rss_mb(), gpu)


def _max_rss_mb() -> float:
    if resource is None:
        return 0.0
    # Kibibytes on Linux, bytes on macOS.
    scale = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / scale


def trim_metrics(path: Path, start_iter: int) -> None:
    """Drop from ``metrics.json`` what a run recorded after the checkpoint that it now resumes from.

    Lines that are not JSON (cut off by a crash) go as well.
    """
    if not path.is_file():
        return
    kept = []
    for line in path.read_text().splitlines():
        try:
            if json.loads(line)["iteration"] < start_iter:
                kept.append(line)
        except (ValueError, KeyError, TypeError):
            logger.warning("%s: dropped a line that is not a record: %.80s", path, line)
    path.write_text("".join(f"{line}\n" for line in kept))


def build_writers(output_dir: str, *, start_iter: int, schedule: Schedule) -> list[HookBase]:
    """Console, ``metrics.json`` and TensorBoard on the main process, continued from ``start_iter``; the last hook."""
    if not comm.is_main_process():
        return []
    path = Path(output_dir)
    trim_metrics(path / "metrics.json", start_iter)
    purge = {"purge_step": start_iter} if start_iter else {}
    writers = [
        CommonMetricPrinter(schedule.max_iter),
        JSONWriter(str(path / "metrics.json")),
        TensorboardXWriter(str(path), **purge),
    ]
    return [hooks.PeriodicWriter(writers, period=schedule.log_period)]


def build_hooks(
    cfg: DictConfig,
    *,
    schedule: Schedule,
    scheduler: ParamScheduler,
    checkpointer: Checkpointer,
    evaluate: Callable[[], dict[str, float]],
) -> list[HookBase]:
    """Timer, learning rate, evaluation and, on the main process, checkpoints and memory.

    Register them before a checkpoint is loaded, since it restores their state, and the writers after.

    Args:
        cfg: for ``train.checkpointer``. schedule: the run's durations. scheduler: multiplier of the learning rate.
        checkpointer: saves the run. evaluate: returns metrics to record.
    """
    common = [hooks.IterationTimer(), LRScheduler(scheduler=scheduler)]
    evaluation = hooks.EvalHook(schedule.eval_period, evaluate)
    if not comm.is_main_process():
        return [*common, evaluation]
    period = schedule.checkpoint_period or schedule.max_iter + 1  # model_final is written anyway
    saving = hooks.PeriodicCheckpointer(checkpointer, period, max_to_keep=cfg.train.checkpointer.max_to_keep)
    return [*common, saving, evaluation, MemoryStats(schedule.log_period)]
