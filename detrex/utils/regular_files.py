"""Opening files that somebody else wrote: regular files only, and whose fault it is when one cannot be read."""

from __future__ import annotations

import errno
import os
import stat
from typing import IO, Any

__all__ = ["MachineError", "NotRegularFileError", "is_machine_fault", "open_regular", "raise_machine_fault"]

_KINDS = {
    stat.S_IFDIR: "a directory",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a character device",
    stat.S_IFBLK: "a block device",
}
# What the system says of a path or its content; any other number is about memory, descriptors, the disk or the network.
_FILE_ERRORS = frozenset(
    getattr(errno, name)
    for name in ("ENOENT", "ENOTDIR", "EISDIR", "ELOOP", "ENAMETOOLONG", "EACCES", "EPERM", "EINVAL", "EILSEQ", "ENXIO",
                 "EOVERFLOW", "ESPIPE", "EFBIG", "ERANGE")  # EINVAL: seeking to a negative offset that the file states
    if hasattr(errno, name)
)  # fmt: skip
_PILLOW_MEMORY = "out of memory"  # a decoder's failed allocation is an OSError with this text


class MachineError(RuntimeError):
    """Memory ran out, the disk failed or a process died: the machine's fault, or that of asking too much of it."""


class NotRegularFileError(OSError):
    """A path that is a directory, a named pipe, a socket or a device; reading it could wait forever."""


def open_regular(path: str | os.PathLike[str], mode: str = "rb", encoding: str | None = None) -> IO[Any]:
    """Open a regular file for reading; links are followed.

    Args:
        path: of the file.
        mode: "rb" or "r".
        encoding: of mode "r"; None is UTF-8, not the locale's encoding.

    Raises:
        NotRegularFileError: the path is something else; it is not opened, or not read.
        OSError: it cannot be opened.
        ValueError: another mode; a path that no file can have.
    """
    if mode not in ("r", "rb"):
        raise ValueError(f'mode={mode!r}: open_regular takes "r" or "rb"')
    return open(path, mode, encoding=(encoding or "utf-8") if mode == "r" else None, opener=_open)


def is_machine_fault(error: BaseException | None) -> bool:
    """Whether reading failed because of the machine (memory, descriptors, disk, network) and not because of the file.

    Args:
        error: of reading or decoding; the errors that caused it are looked at as well.
    """
    while error is not None:
        if isinstance(error, MemoryError):
            return True
        if isinstance(error, OSError):
            if error.errno is not None and error.errno not in _FILE_ERRORS:
                return True
            if error.errno is None and _PILLOW_MEMORY in str(error).lower():
                return True
        error = error.__cause__
    return False


def raise_machine_fault(error: BaseException, path: str | os.PathLike[str]) -> None:
    """Raise an error again if it is the machine's fault, naming the path; return if it is the file's."""
    if not is_machine_fault(error):
        return
    if isinstance(error, MemoryError):
        raise MemoryError(f"{os.fspath(path)}: not enough memory to read it") from error
    if isinstance(error, OSError) and error.errno is not None and error.filename is None:
        raise OSError(error.errno, error.strerror, os.fspath(path)) from error
    raise error


def _open(path: str, flags: int) -> int:
    _require_regular(os.stat(path).st_mode, path)  # opening a device can have effects
    descriptor = os.open(path, flags | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0))
    try:
        _require_regular(os.fstat(descriptor).st_mode, path)  # the path may be another file by now
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _require_regular(mode: int, path: str) -> None:
    if not stat.S_ISREG(mode):
        kind = _KINDS.get(stat.S_IFMT(mode), "a special file")
        raise NotRegularFileError(f"{os.fspath(path)} is {kind}, not a regular file")
