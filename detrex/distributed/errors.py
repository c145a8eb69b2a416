"""Errors that end a command, and the exit status that each gives."""

from __future__ import annotations

import errno
import functools
import os
import sys
from collections.abc import Callable

from torch.distributed.elastic.multiprocessing.errors import get_error_handler

from detrex.checkpoint import CheckpointError
from detrex.config import ConfigError
from detrex.data import BrokenImagesError, DatasetError
from detrex.utils.regular_files import MachineError, is_machine_fault
from detrex.utils.text import printable

__all__ = [
    "EXIT_CONFIG",
    "EXIT_MACHINE",
    "EXIT_NOT_FINITE",
    "EXIT_PREEMPTED",
    "MachineError",
    "Preempted",
    "record_error",
    "with_exit_status",
]

EXIT_CONFIG, EXIT_NOT_FINITE, EXIT_PREEMPTED, EXIT_MACHINE = 2, 3, 4, 5

_INPUT_ERRORS = (ConfigError, CheckpointError, DatasetError, BrokenImagesError)
_DISK_ERRORS = {getattr(errno, name, None) for name in ("ENOSPC", "EDQUOT", "EFBIG", "EROFS", "EIO", "EACCES")}


class Preempted(SystemExit):
    """The run was asked to stop and is saved. Left alone, it ends the process with status ``EXIT_PREEMPTED``."""

    def __init__(self, message: str) -> None:
        super().__init__(EXIT_PREEMPTED)
        self.message = message


def with_exit_status(*input_errors: type[Exception]) -> Callable[[Callable[..., int]], Callable[..., int]]:
    """Make a function that returns an exit status print expected errors in one line and return theirs.

    Errors of config, checkpoint and data give ``EXIT_CONFIG``, values that are not finite ``EXIT_NOT_FINITE``, a saved
    run that was asked to stop ``EXIT_PREEMPTED``, and memory, disk or a lost process ``EXIT_MACHINE``. Anything else is
    raised.

    Args:
        input_errors: further classes that mean wrong input to this command.
    """

    def decorate(function: Callable[..., int]) -> Callable[..., int]:
        @functools.wraps(function)
        def main(*args: object, **kwargs: object) -> int:
            try:
                return function(*args, **kwargs)
            except Preempted as e:
                print(e.message, file=sys.stderr)
                return EXIT_PREEMPTED
            except Exception as e:
                status = _status_of(e, input_errors)
                if status is None:
                    raise
                print("error:", "\n".join(map(printable, str(e).splitlines())) or type(e).__name__, file=sys.stderr)
                record_error(e)
                return status

        return main

    return decorate


def _status_of(error: Exception, input_errors: tuple[type[Exception], ...]) -> int | None:
    if isinstance(error, _INPUT_ERRORS):
        return EXIT_CONFIG
    if isinstance(error, FloatingPointError):
        return EXIT_NOT_FINITE
    if isinstance(error, MachineError) or (isinstance(error, OSError) and error.errno in _DISK_ERRORS):
        return EXIT_MACHINE
    if is_machine_fault(error) and not isinstance(error, FileExistsError):
        return EXIT_MACHINE
    return EXIT_CONFIG if isinstance(error, input_errors) else None


def record_error(error: BaseException) -> None:
    """Tell torch's launcher, which shows the first error of all processes when the job has ended."""
    if os.environ.get("TORCHELASTIC_ERROR_FILE"):
        get_error_handler().record_exception(error)
