"""What can be detected on: image files, PIL images, arrays, folders and videos."""

from __future__ import annotations

import glob
import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from detrex.data import read_image
from detrex.data.checks.images import DEEP_MODES, IMAGE_SUFFIXES, upright
from detrex.utils.regular_files import is_machine_fault
from detrex.utils.text import count_of, printable

from .video import read_frames

__all__ = ["InputImage", "find_inputs", "is_stream", "is_video", "read_image_input", "read_stream"]

logger = logging.getLogger(__name__)

VIDEO_SUFFIXES = frozenset({".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg"})


@dataclass(frozen=True)
class InputImage:
    """An image to detect on.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        file: that it is from, an image or a video. frame: its number in the video.
    """

    image: np.ndarray
    file: str | None = None
    frame: int | None = None


def is_video(path: str | os.PathLike[str]) -> bool:
    """Whether a path has the suffix of a video."""
    return Path(path).suffix.lower() in VIDEO_SUFFIXES


def is_stream(source: Any) -> bool:
    """Whether a source is a path of many images: a folder or a video."""
    return isinstance(source, (str, os.PathLike)) and (os.path.isdir(source) or is_video(source))


def read_stream(path: str | os.PathLike[str]) -> Iterator[InputImage]:
    """The images of a folder, by name, or the frames of a video, one by one.

    Hidden files of a folder are left out. An image that cannot be read is logged and skipped.

    Raises:
        FileNotFoundError: a folder without images. ValueError: no package av.
        OSError: none of the folder's images can be read; the video cannot be; or the machine failed, not the file.
    """
    path = os.fspath(path)
    if is_video(path):
        yield from (InputImage(frame, path, number) for number, frame in enumerate(read_frames(path)))
        return
    files = _files_in(path, IMAGE_SUFFIXES)
    if not files:
        raise FileNotFoundError(f"{path}: no images in the folder")
    faults: list[Exception] = []
    for file in files:
        try:
            picture = read_image_input(file)
        except (OSError, ValueError) as error:
            if is_machine_fault(error):
                raise
            faults.append(error)
            logger.warning("Skipped: %s", printable(str(error)))
            continue
        yield picture
    if len(faults) == len(files):
        raise OSError(f"{path}: none of its {count_of(len(files), 'image')} can be read; the first: {faults[0]}")


def read_image_input(source: str | os.PathLike[str] | Image.Image | np.ndarray) -> InputImage:
    """One image: a file or a PIL image, its EXIF orientation applied, or an RGB array as it is.

    Raises:
        OSError: a file that is absent or no readable image. ValueError: an image of more than 8 bits, an array that is
            not (H, W, 3) uint8. TypeError: something else.
    """
    if isinstance(source, (str, os.PathLike)):
        return InputImage(read_image(os.fspath(source)), os.fspath(source))
    if isinstance(source, Image.Image):
        if source.mode in DEEP_MODES:
            raise ValueError(f"a PIL image of mode {source.mode} has more than 8 bits: convert it")
        return InputImage(np.array(upright(source).convert("RGB")))
    if isinstance(source, np.ndarray):
        if source.dtype != np.uint8 or source.ndim != 3 or source.shape[2] != 3 or source.size == 0:
            raise ValueError(f"an array must be (H, W, 3) uint8 RGB, got {source.shape} {source.dtype}")
        return InputImage(source)
    raise TypeError(
        f"cannot detect on a {type(source).__name__}: give a path, a PIL image, an array (H, W, 3) or a list of these"
    )


def find_inputs(inputs: Sequence[str]) -> list[str]:
    """Files named by paths, folders (their images and videos, sorted, without hidden ones) and glob patterns.

    Raises:
        FileNotFoundError: an input that names nothing, or nothing that looks like an image or a video.
    """
    files: list[str] = []
    for item in inputs:
        expanded = os.path.expanduser(item)
        if os.path.isdir(expanded):
            found = _files_in(expanded, IMAGE_SUFFIXES | VIDEO_SUFFIXES)
        else:
            found = [expanded] if os.path.exists(expanded) else sorted(glob.glob(expanded, recursive=True))
        if not found:
            raise FileNotFoundError(f"{item}: no such file, or no images or videos in the folder")
        files += found
    return list(dict.fromkeys(files))


def _files_in(folder: str, suffixes: frozenset[str]) -> list[str]:
    """Paths with one of the suffixes, sorted; hidden files are left out, such as the "._name" that macOS leaves."""
    visible = (path for path in Path(folder).iterdir() if not path.name.startswith("."))
    return sorted(str(path) for path in visible if path.suffix.lower() in suffixes)
