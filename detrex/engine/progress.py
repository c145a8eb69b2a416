"""One live line below the log, on a terminal."""

from __future__ import annotations

import logging
import sys
import time
from datetime import timedelta

import torch
from detectron2.engine import HookBase
from detectron2.utils import comm
from rich.console import Console
from rich.file_proxy import FileProxy
from rich.live import Live
from rich.text import Text

__all__ = ["ProgressLine"]

REFRESH_SECONDS = 0.2
WINDOW = 20  # iterations whose median is shown, as in the log


class ProgressLine(HookBase):
    """Shows iteration, loss, the last evaluation's AP, images per second, the time left and the peak memory.

    Only the first process shows it, and only where the standard output is a terminal; elsewhere the hook does nothing.
    What is logged or printed meanwhile appears above the line. Loss, speed and memory are those of the log: nothing
    waits for the device.

    Register it first: it ends before any other hook can fail.

    Args:
        max_iter: of the run.
        batch_size: images of an iteration, over all processes.
        metric: name of the AP.
    """

    def __init__(self, max_iter: int, batch_size: int, *, metric: str = "bbox/AP"):
        self._max_iter, self._batch_size, self._metric = max_iter, batch_size, metric
        self._live: Live | None = None
        self._handlers: list[logging.StreamHandler] = []
        self._shown = 0.0

    def before_train(self) -> None:
        console = Console(file=sys.stdout, highlight=False, soft_wrap=True)
        if not (comm.is_main_process() and sys.stdout.isatty()) or console.is_dumb_terminal:
            return
        streams = sys.stdout, sys.stderr
        # Refreshed by the steps: a thread's locks would not survive the fork of data workers.
        self._live = Live(console=console, auto_refresh=False, transient=True, redirect_stderr=streams[1].isatty())
        self._live.start()
        console.show_cursor(True)  # a killed process could not
        for stream, above in zip(streams, (sys.stdout, sys.stderr), strict=True):
            for handler in _handlers() if above is not stream else ():
                if handler.stream is stream:
                    handler.setStream(above)
                    self._handlers.append(handler)

    def after_step(self) -> None:
        if self._live is not None and time.monotonic() - self._shown >= REFRESH_SECONDS:
            self._shown = time.monotonic()
            self._live.update(Text(self._line(), no_wrap=True, overflow="ellipsis"), refresh=True)

    def after_train(self) -> None:
        if self._live is None:
            return
        for stream in {sys.stdout, sys.stderr}:
            stream.flush()  # what has no end of line yet
        for handler in self._handlers:
            if isinstance(handler.stream, FileProxy):
                handler.setStream(handler.stream.rich_proxied_file)
        self._handlers = []
        self._live.stop()
        self._live = None

    def _line(self) -> str:
        done, latest = self.trainer.iter + 1, self.trainer.storage.latest()
        parts = [f"{100 * done // self._max_iter}% {done}/{self._max_iter}"]
        if "total_loss" in latest:
            parts.append(f"loss {self.trainer.storage.history('total_loss').median(WINDOW):.4g}")
        if self._metric in latest:
            parts.append(f"{self._metric.rpartition('/')[2]} {latest[self._metric][0]:.1f}")
        if "time" in latest:
            times = self.trainer.storage.history("time")
            parts.append(f"{self._batch_size / max(times.median(WINDOW), 1e-9):.3g} images/s")
            parts.append(f"ETA {timedelta(seconds=int(times.median(1000) * (self._max_iter - done)))}")
        if torch.cuda.is_available():
            parts.append(f"GPU {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB")
        elif "max_rss_mb" in latest:
            parts.append(f"memory {latest['max_rss_mb'][0] / 2**10:.1f} GiB")
        return "  ".join(parts)


def _handlers() -> set[logging.StreamHandler]:
    """Log handlers of all loggers that write to a stream."""
    loggers = [logging.root, *(x for x in logging.root.manager.loggerDict.values() if isinstance(x, logging.Logger))]
    return {handler for x in loggers for handler in x.handlers if isinstance(handler, logging.StreamHandler)}
