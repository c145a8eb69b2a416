"""Frames of video files, by PyAV (an optional dependency)."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from types import ModuleType
from typing import Any

import numpy as np

from detrex.utils.regular_files import open_regular

__all__ = ["frame_rate", "read_frames", "write_frames"]

DEFAULT_RATE = Fraction(25)


def _av() -> ModuleType:
    try:
        import av
    except ImportError:
        raise ValueError("videos need the package av: pip install av (or 'detrex[video]')") from None
    return av


@contextmanager
def _opened(path: str) -> Iterator[Any]:
    av = _av()
    open_regular(path).close()  # a named pipe would be waited for
    try:
        with av.open(path) as container:
            if not container.streams.video:
                raise ValueError(f"{path}: no video stream")
            yield container
    except av.FFmpegError as e:
        raise OSError(f"{path}: cannot read the video: {e}") from e


def frame_rate(path: str) -> Fraction:
    """Frames per second.

    Raises:
        ValueError: the package av is not installed, or the file has no video stream.
        OSError: the file cannot be opened, or is a named pipe or a device.
    """
    with _opened(path) as container:
        return Fraction(container.streams.video[0].average_rate or DEFAULT_RATE)


def read_frames(path: str) -> Iterator[np.ndarray]:
    """The frames as (H, W, 3) uint8 RGB, decoded one by one.

    Raises:
        ValueError: the package av is not installed, or the file has no video stream.
        OSError: the file cannot be opened or decoded, or is a named pipe or a device.
    """
    with _opened(path) as container:
        for frame in container.decode(video=0):
            yield frame.to_ndarray(format="rgb24")


def write_frames(path: str, frames: Iterable[np.ndarray], rate: Fraction) -> None:
    """Write (H, W, 3) uint8 RGB frames of one size as H.264; odd sizes lose their last row or column.

    Raises:
        ValueError: no frames, or the package av is not installed.
    """
    av = _av()
    frames = iter(frames)
    first = next(frames, None)
    if first is None:
        raise ValueError("the video has no frames")
    height, width = (n - n % 2 for n in first.shape[:2])  # yuv420p halves both
    with av.open(path, "w") as container:
        stream = container.add_stream("libx264", rate=rate)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for image in itertools.chain([first], frames):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image[:height, :width]), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
