"""Console and file logging, rate-limited messages, small tables."""

import atexit
import functools
import itertools
import logging
import os
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import IO, Any

from detectron2.utils.file_io import PathManager
from tabulate import tabulate
from termcolor import colored

_DATE_FORMAT = "%m/%d %H:%M:%S"
_REMOTE_BUFFER_BYTES = 1024 * 1024  # fewer, larger writes where each one is a request


class _ConsoleFormatter(logging.Formatter):
    """``[MM/DD HH:MM:SS d2.x]: message``, in colour on a terminal, with the level in front of warnings and errors."""

    def __init__(self, root_name: str, abbrev_name: str) -> None:
        super().__init__(colored("[%(asctime)s %(name)s]: ", "green") + "%(message)s", datefmt=_DATE_FORMAT)
        self._root, self._abbreviation = f"{root_name}.", f"{abbrev_name}." if abbrev_name else ""

    def formatMessage(self, record: logging.LogRecord) -> str:
        full_name = record.name
        record.name = full_name.replace(self._root, self._abbreviation)
        try:
            line = super().formatMessage(record)
        finally:
            record.name = full_name  # other handlers see the record after this one
        if record.levelno >= logging.ERROR:
            return f"{colored('ERROR', 'red', attrs=['blink', 'underline'])} {line}"
        if record.levelno == logging.WARNING:
            return f"{colored('WARNING', 'red', attrs=['blink'])} {line}"
        return line


def setup_logger(
    output: str | None = None,
    distributed_rank: int = 0,
    *,
    color: bool = True,
    name: str = "detectron2",
    abbrev_name: str | None = None,
    enable_propagation: bool = False,
    configure_stdout: bool = True,
) -> logging.Logger:
    """Set up the logger ``name`` at level DEBUG: to stdout on rank 0, and to a file on every rank.

    May be called any number of times: a logger has one console handler and one handler per file.

    Args:
        output: a .txt or .log file, or a folder, in which the file is ``log.txt``; ranks above 0 append ``.rankN``.
        distributed_rank: rank of this process.
        color: colours, and the short format, on the console.
        name: the root of the logger names.
        abbrev_name: what stands for ``name`` on the console: "d2" for "detectron2", by default ``name`` for others, ""
            for nothing.
        enable_propagation: hand records on to the parent loggers.
        configure_stdout: log to stdout at all.
    """
    logger = logging.getLogger(name)
    logger.setLevel(logging.DEBUG)
    logger.propagate = enable_propagation
    if abbrev_name is None:
        abbrev_name = "d2" if name == "detectron2" else name

    plain = logging.Formatter("[%(asctime)s] %(name)s %(levelname)s: %(message)s", datefmt=_DATE_FORMAT)
    if configure_stdout and distributed_rank == 0:
        formatter = _ConsoleFormatter(name, abbrev_name) if color else plain
        _set_handler(logger, "stdout", sys.stdout, formatter)
    if output is not None:
        filename = output if output.endswith((".txt", ".log")) else os.path.join(output, "log.txt")
        if distributed_rank > 0:
            filename = f"{filename}.rank{distributed_rank}"
        _set_handler(logger, filename, _log_stream(filename), plain)
    return logger


def _set_handler(logger: logging.Logger, target: str, stream: IO[str], formatter: logging.Formatter) -> None:
    handler_name = f"detectron2:{logger.name}:{target}"
    handler = next((h for h in logger.handlers if h.get_name() == handler_name), None)
    if handler is None:
        handler = logging.StreamHandler(stream)
        handler.set_name(handler_name)
        logger.addHandler(handler)
    else:
        handler.setStream(stream)
    handler.setLevel(logging.DEBUG)
    handler.setFormatter(formatter)


@functools.cache
def _log_stream(filename: str) -> IO[str]:
    """One open file per path, shared by all loggers that write to it."""
    if os.path.dirname(filename):
        PathManager.mkdirs(os.path.dirname(filename))
    stream = PathManager.open(filename, "a", buffering=_REMOTE_BUFFER_BYTES if "://" in filename else -1)
    atexit.register(stream.close)
    return stream


_counts: Counter[tuple[Any, ...]] = Counter()
_last_logged: dict[tuple[Any, ...], float] = {}


def _caller() -> tuple[str, tuple[Any, ...]]:
    """Module name and source position of the nearest frame outside this file."""
    frame = sys._getframe(1)
    while frame.f_code.co_filename == __file__:
        frame = frame.f_back
    module = frame.f_globals["__name__"]
    position = (frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_name)
    return "detectron2" if module == "__main__" else module, position


def log_first_n(
    lvl: int, msg: str, n: int = 1, *, name: str | None = None, key: str | tuple[str, ...] = "caller"
) -> None:
    """Log the first ``n`` times only.

    Args:
        lvl: a level of the logging module.
        msg: the message.
        n: how often.
        name: the logger; by default the module of the caller.
        key: what counts as the same message: "caller" (the source line), "message" (the text), or both in a tuple.
    """
    keys = (key,) if isinstance(key, str) else tuple(key)
    if not keys or set(keys) - {"caller", "message"}:
        raise ValueError(f"key must be made of 'caller' and 'message', got {key!r}")
    module, position = _caller()
    identity = (position if "caller" in keys else (), msg if "message" in keys else None)
    _counts[identity] += 1
    if _counts[identity] <= n:
        logging.getLogger(name or module).log(lvl, msg)


def log_every_n(lvl: int, msg: str, n: int = 1, *, name: str | None = None) -> None:
    """Log the first of every ``n`` calls from the same source line."""
    module, position = _caller()
    _counts[position] += 1
    if (_counts[position] - 1) % n == 0:
        logging.getLogger(name or module).log(lvl, msg)


def log_every_n_seconds(lvl: int, msg: str, n: float = 1, *, name: str | None = None) -> None:
    """Log from the same source line at most once in ``n`` seconds."""
    module, position = _caller()
    now = time.monotonic()
    if now - _last_logged.get(position, -float("inf")) >= n:
        logging.getLogger(name or module).log(lvl, msg)
        _last_logged[position] = now


def create_small_table(small_dict: Mapping[str, Any]) -> str:
    """Format a few values as a table of one row, with their keys as the header."""
    style = {"tablefmt": "pipe", "floatfmt": ".3f", "stralign": "center", "numalign": "center"}
    return tabulate([list(small_dict.values())], headers=list(small_dict), **style)


def _create_class_table(names: Sequence[str], values: Sequence[Any], header: str) -> str:
    """Format one value per class as a table of up to three pairs of columns."""
    cells = list(itertools.chain(*zip(names, values, strict=True)))
    columns = min(6, len(cells))
    rows = [cells[i : i + columns] for i in range(0, len(cells), columns)]
    headers = ["category", header] * (columns // 2)
    return tabulate(rows, headers=headers, tablefmt="pipe", floatfmt=".3f", numalign="left", stralign="center")
