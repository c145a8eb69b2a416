"""One live line below the log, on a terminal."""

from __future__ import annotations

import io
import logging
import os
import sys
import time
from datetime import timedelta
from typing import IO, Any

import torch
from detectron2.engine import HookBase
from detectron2.utils import comm
from rich.console import Console
from rich.live import Live
from rich.text import Text

__all__ = ["ProgressLine"]

REFRESH_SECONDS = 0.2
WINDOW = 20  # iterations whose median is shown, as in the log


class ProgressLine(HookBase):
    """Shows iteration, loss, the last evaluation's AP, images per second, the time left and the peak memory.

    Only the first process shows it, and only where the standard output is a terminal; elsewhere the hook does nothing.
    What is logged or printed meanwhile goes above the line, character by character as it is. Loss, speed and memory
    are those of the log: nothing waits for the device.

    To be registered first: it ends before any other hook can fail.

    Args:
        max_iter: of the run. batch_size: images of an iteration, over all processes.
        metric: name of the AP.
    """

    def __init__(self, max_iter: int, batch_size: int, *, metric: str = "bbox/AP"):
        self._max_iter, self._batch_size, self._metric = max_iter, batch_size, metric
        self._live: Live | None = None
        self._streams: dict[str, IO[str]] = {}
        self._handlers: list[tuple[logging.StreamHandler, Any]] = []
        self._shown = 0.0

    def before_train(self) -> None:
        console = Console(file=sys.stdout, highlight=False)
        if not (comm.is_main_process() and sys.stdout.isatty()) or console.is_dumb_terminal:
            return
        # Refreshed by the steps: a thread's locks would not survive the fork of data workers.
        self._live = Live(
            console=console, auto_refresh=False, transient=True, redirect_stdout=False, redirect_stderr=False
        )
        self._live.start()
        console.show_cursor(True)  # a killed process could not
        self._redirect(console)

    def after_step(self) -> None:
        if self._live is not None and time.monotonic() - self._shown >= REFRESH_SECONDS:
            self._shown = time.monotonic()
            self._live.update(Text(self._line(), no_wrap=True, overflow="ellipsis"), refresh=True)

    def after_train(self) -> None:
        if self._live is None:
            return
        for handler, stream in self._handlers:
            handler.setStream(stream)
        for name, stream in self._streams.items():
            getattr(sys, name).finish()
            setattr(sys, name, stream)
        self._handlers, self._streams = [], {}
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

    def _redirect(self, console: Console) -> None:
        """Lead what goes to the terminal, by print or by a log handler, past the line."""
        for name in ("stdout", "stderr"):
            stream = getattr(sys, name)
            if not stream.isatty():
                continue
            self._streams[name] = stream
            above = _AboveTheLine(stream, console)
            setattr(sys, name, above)
            for handler in _handlers():
                if handler.stream is stream:
                    self._handlers.append((handler, stream))
                    handler.setStream(above)


class _AboveTheLine(io.TextIOBase):
    """A terminal's stream whose complete lines appear above the live line of a console."""

    def __init__(self, stream: IO[str], console: Console):
        self._stream, self._console = stream, console
        self._owner, self._rest = os.getpid(), ""

    def write(self, text: str) -> int:
        if os.getpid() != self._owner:  # a data worker has no line
            return self._stream.write(text)
        *lines, self._rest = (self._rest + text).split("\n")
        if lines:
            self._console.print(Text.from_ansi("\n".join(lines)), soft_wrap=True)
        return len(text)

    def flush(self) -> None:
        self._stream.flush()

    def finish(self) -> None:
        """Write what has no end of line yet."""
        if self._rest:
            self.write("\n")

    def isatty(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._stream.fileno()

    @property
    def encoding(self) -> str:
        return self._stream.encoding


def _handlers() -> list[logging.StreamHandler]:
    loggers = [logging.root, *(x for x in logging.root.manager.loggerDict.values() if isinstance(x, logging.Logger))]
    found = {id(h): h for logger in loggers for h in logger.handlers if isinstance(h, logging.StreamHandler)}
    return list(found.values())
