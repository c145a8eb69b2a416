"""Files that are there whole or not at all, and that show when bits have changed."""

from __future__ import annotations

import errno
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from .errors import CheckpointError

__all__ = ["cause_on_disk", "check_archive_size", "is_archive", "replace_file", "verify_archive"]


SLACK = 16 << 20  # bytes; other programs compress texts in their archives


def replace_file(target: Path, write: Callable[[BinaryIO], Any]) -> None:
    """Write a file whole or not at all, whenever the process or the machine dies."""
    temporary = Path(f"{target}.tmp")
    try:
        with temporary.open("wb") as f:
            write(f)
            f.flush()
            os.fsync(f.fileno())
        os.replace(temporary, target)
    except Exception:
        temporary.unlink(missing_ok=True)  # its space may be what lacks
        raise
    _sync_folder(target.parent)


def _sync_folder(folder: Path) -> None:
    """Have the folder remember its new name after a loss of power; not every system can."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(descriptor)
    except OSError as e:
        if e.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


def is_archive(path: Path) -> bool:
    """Whether a file begins as those of ``torch.save``, which have checksums; older ones were plain pickles."""
    with path.open("rb") as f:
        return f.read(2) == b"PK"


def check_archive_size(path: Path) -> None:
    """Refuse an archive that unpacks to far more than its own size; ``torch.save`` compresses nothing.

    Raises:
        CheckpointError: it does: a small file could fill the memory.
    """
    if not is_archive(path):
        return
    with zipfile.ZipFile(path) as archive:
        unpacked = sum(entry.file_size for entry in archive.infolist())
    size = path.stat().st_size
    if unpacked > size + SLACK:
        raise CheckpointError(
            f"checkpoint {path} has {size} bytes and unpacks to {unpacked}: torch.save writes no such file"
        )


def verify_archive(path: Path) -> None:
    """Compare a file that ``torch.save`` wrote with the checksums in it, which ``torch.load`` does not look at.

    Raises:
        CheckpointError: it is cut off, or bits have changed.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except Exception as e:  # damage shows in any way
        raise CheckpointError(f"checkpoint {path} is damaged or cut off: {type(e).__name__}: {e}") from e
    if damaged is not None:
        raise CheckpointError(f"checkpoint {path} is damaged: the checksum of {damaged} is wrong")


def cause_on_disk(error: BaseException | None) -> OSError | None:
    """The error of the disk behind one that torch raised in its place."""
    while error is not None and not isinstance(error, OSError):
        error = error.__cause__ or error.__context__
    return error
