"""Hooks that measure time and memory in detail."""

import contextlib
import logging
import os
import tempfile
import warnings
from collections.abc import Callable, Iterable
from typing import Any

import torch
from detectron2.utils import comm
from detectron2.utils.file_io import PathManager

from .train_loop import HookBase, TrainerBase


class TorchProfiler(HookBase):
    """Runs ``torch.profiler.profile`` over the steps for which ``enable_predicate(trainer)`` holds, one trace each.

    Args:
        enable_predicate: asked before every step.
        output_dir: gets ``profiler-trace-iter<N>.json`` for chrome://tracing, or with ``save_tensorboard`` the folder
            ``log/profiler-tensorboard-iter<N>``.
        activities: as in ``torch.profiler.profile``.
        save_tensorboard: see ``output_dir``.
    """

    def __init__(
        self,
        enable_predicate: Callable[[TrainerBase], bool],
        output_dir: str,
        *,
        activities: Iterable[torch.profiler.ProfilerActivity] | None = None,
        save_tensorboard: bool = True,
    ) -> None:
        self._enable_predicate = enable_predicate
        self._output_dir = output_dir
        self._activities = activities
        self._save_tensorboard = save_tensorboard
        self._profiler: Any = None

    def _start(self) -> Any:
        on_trace_ready = None
        if self._save_tensorboard:
            folder = os.path.join(self._output_dir, "log", f"profiler-tensorboard-iter{self.trainer.iter}")
            on_trace_ready = torch.profiler.tensorboard_trace_handler(folder, f"worker{comm.get_rank()}")
        return torch.profiler.profile(
            activities=self._activities,
            on_trace_ready=on_trace_ready,
            record_shapes=True,
            profile_memory=True,
            with_stack=True,
            with_flops=True,
        )

    def before_step(self) -> None:
        if self._enable_predicate(self.trainer):
            self._profiler = self._start()
            self._profiler.__enter__()

    def _stop(self) -> Any:
        profiler, self._profiler = self._profiler, None
        if profiler is not None:
            profiler.__exit__(None, None, None)
        return profiler

    def after_step(self) -> None:
        profiler = self._stop()
        if profiler is None or self._save_tensorboard:
            return
        PathManager.mkdirs(self._output_dir)
        filename = os.path.join(self._output_dir, f"profiler-trace-iter{self.trainer.iter}.json")
        with tempfile.TemporaryDirectory() as folder:  # the profiler writes to local files only
            local = os.path.join(folder, "trace.json")
            profiler.export_chrome_trace(local)
            with open(local) as source, PathManager.open(filename, "w") as target:
                target.write(source.read())

    def after_train(self) -> None:
        with contextlib.suppress(Exception):  # a step that failed has left the profiler running
            self._stop()


class AutogradProfiler(TorchProfiler):
    """The older ``torch.autograd.profiler.profile``; prefer :class:`TorchProfiler`.

    Args:
        enable_predicate: asked before every step.
        output_dir: gets ``profiler-trace-iter<N>.json``.
        use_cuda: time CUDA kernels too, where there is a GPU.
    """

    def __init__(
        self, enable_predicate: Callable[[TrainerBase], bool], output_dir: str, *, use_cuda: bool = True
    ) -> None:
        warnings.warn("AutogradProfiler is deprecated, use TorchProfiler.", DeprecationWarning, stacklevel=2)
        super().__init__(enable_predicate, output_dir, save_tensorboard=False)
        self._use_cuda = use_cuda

    def _start(self) -> Any:
        device = "cuda" if self._use_cuda and torch.cuda.is_available() else None
        return torch.autograd.profiler.profile(use_device=device)


class TorchMemoryStats(HookBase):
    """Logs CUDA memory every ``period`` iterations, ``max_runs`` times, the last time with a full summary.

    The peaks are reset each time, so they are those of the period. Without a GPU nothing happens.
    """

    def __init__(self, period: int = 20, max_runs: int = 10) -> None:
        self._logger = logging.getLogger("detectron2.engine.hooks")
        self._period = period
        self._max_runs = max_runs
        self._runs = 0

    def after_step(self) -> None:
        iteration, last = self.trainer.iter, self.trainer.max_iter - 1
        due = (iteration + 1) % self._period == 0 or iteration == last
        if not due or self._runs >= self._max_runs or not torch.cuda.is_available():
            return
        self._runs += 1
        amounts = {
            "max_reserved_mem": torch.cuda.max_memory_reserved(),
            "reserved_mem": torch.cuda.memory_reserved(),
            "max_allocated_mem": torch.cuda.max_memory_allocated(),
            "allocated_mem": torch.cuda.memory_allocated(),
        }
        text = "  ".join(f"{name}: {amount / 2**20:.0f}MB" for name, amount in amounts.items())
        self._logger.info(" iter: %d  %s", iteration, text)
        if self._runs == self._max_runs:
            self._logger.info("\n%s", torch.cuda.memory_summary())
        torch.cuda.reset_peak_memory_stats()
