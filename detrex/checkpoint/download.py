"""Downloads: cached whole or not at all, and compared with the hash that is known of them."""

from __future__ import annotations

import hashlib
import logging
import re
from pathlib import Path

from detectron2.utils.file_io import PathManager

from .disk import replace_file
from .errors import CheckpointError

__all__ = ["download", "sha256_of"]

logger = logging.getLogger(__name__)

# PyTorch's convention: resnet50-0676ba61.pth, the beginning of the file's SHA-256
_HASH_IN_NAME = re.compile(r"-([0-9a-f]{8,64})\.[a-z]+$")


def download(url: str) -> str:
    """Local file of a URL; detectron2's cache, which moves finished downloads into their place.

    The SHA-256 is logged, kept beside the file at its first use, and compared at every later one; and with the name
    where that states it.

    Raises:
        CheckpointError: the download failed, or the hash is another one.
    """
    try:
        path = PathManager.get_local_path(url)
    except Exception as e:  # of any type, by the handler of the URL
        raise CheckpointError(
            f"cannot download {url}: {e}. Without a network, fetch it elsewhere and give "
            "train.init_checkpoint=/path/to/file, or train.init_checkpoint='' to start from scratch"
        ) from e
    _compare(url, Path(path))
    return path


def sha256_of(path: Path) -> str:
    """Hexadecimal digits of a file's hash."""
    digest = hashlib.sha256()
    with path.open("rb") as f:
        while chunk := f.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def _compare(url: str, path: Path) -> None:
    found, note = sha256_of(path), Path(f"{path}.sha256")
    named = _HASH_IN_NAME.search(url)
    expected = {"its name": named[1]} if named else {}
    if note.is_file():
        expected["an earlier download"] = note.read_text().strip()
    for source, digits in expected.items():
        if not found.startswith(digits) or not digits:
            raise CheckpointError(
                f"{path}, downloaded from {url}, has the SHA-256 {found}, but by {source} it is {digits}...: remove "
                f"{path} and {note.name} and try again"
            )
    if not note.is_file():
        logger.info("%s: SHA-256 %s", url, found)
        try:
            replace_file(note, lambda f: f.write(found.encode()))
        except OSError as e:
            logger.warning("%s cannot be written: %s", note, e)
