"""Images, folders and videos in; drawn copies and ``predictions.json`` out."""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from detrex.utils.regular_files import is_machine_fault
from detrex.utils.text import printable

from .detections import Detections
from .detector import Detector
from .inputs import is_video

__all__ = ["Summary", "annotate"]

LOG_SECONDS = 10.0

logger = logging.getLogger(__name__)
T = TypeVar("T")


@dataclass(frozen=True)
class Summary:
    """What ``annotate`` did.

    Attributes:
        done: files that were drawn.
        failed: (file, reason) of the others.
        num_detections: above the threshold, over all files.
    """

    done: tuple[str, ...]
    failed: tuple[tuple[str, str], ...]
    num_detections: int


def annotate(
    detector: Detector, files: Sequence[str], output: str | os.PathLike[str], *, threshold: float = 0.3
) -> Summary:
    """Detect on each file, write a drawn copy into ``output`` and all detections to ``output/predictions.json``.

    A file that cannot be read is logged by name, skipped and counted.

    Args:
        detector: detects.
        files: images and videos.
        output: folder; created if needed.
        threshold: lowest score that is drawn and written.

    Raises:
        ValueError: an output file would overwrite its input. OSError: a result cannot be written.
    """
    folder = Path(output).expanduser()
    folder.mkdir(parents=True, exist_ok=True)
    targets = _targets(files, folder)
    records: list[dict[str, Any]] = []
    failed: list[tuple[str, str]] = []
    for path in _progress(files, "Detecting"):
        try:
            draw = _annotate_video if is_video(path) else _annotate_image
            records += draw(detector, path, targets[path], threshold)
        except (OSError, ValueError) as e:
            if is_machine_fault(e):
                raise
            failed.append((path, str(e)))
            logger.warning("Skipped %s", printable(str(e) if path in str(e) else f"{path}: {e}"))
    with open(folder / "predictions.json", "w", encoding="utf-8") as f:
        json.dump(records, f, indent=1)
    bad = {path for path, _ in failed}
    count = sum(len(r["predictions"]) for r in records)
    return Summary(tuple(p for p in files if p not in bad), tuple(failed), count)


def _annotate_image(detector: Detector, path: str, target: Path, threshold: float) -> list[dict[str, Any]]:
    found = detector.predict(path, threshold=threshold)
    found.plot().save(target)
    return [{"file": path, **_record(found)}]


def _annotate_video(detector: Detector, path: str, target: Path, threshold: float) -> list[dict[str, Any]]:
    """One record per frame, with its number as ``frame``."""
    from .video import frame_rate, write_frames

    records: list[dict[str, Any]] = []

    def drawn() -> Iterator[np.ndarray]:
        for found in detector.predict(path, threshold=threshold):
            records.append({"file": path, "frame": found.frame, **_record(found)})
            yield np.asarray(found.plot())

    write_frames(str(target), drawn(), frame_rate(path))
    return records


def _record(found: Detections) -> dict[str, Any]:
    height, width = found.image_size
    return {"height": height, "width": width, "predictions": found.to_records()}


def _targets(files: Sequence[str], folder: Path) -> dict[str, Path]:
    """A file name of its own for each input; formats that cannot be drawn into become png, videos mp4."""
    targets, taken = {}, {"predictions.json"}
    for path in files:
        stem, suffix = Path(path).stem, Path(path).suffix.lower()
        if is_video(path):
            suffix = ".mp4"
        elif suffix not in {".jpg", ".jpeg", ".png"}:
            suffix = ".png"
        name, number = f"{stem}{suffix}", 1
        while name in taken:
            number += 1
            name = f"{stem}_{number}{suffix}"
        taken.add(name)
        targets[path] = folder / name
        if targets[path].resolve() == Path(path).resolve():
            raise ValueError(f"{path} would be overwritten by its own result; choose another output folder")
    return targets


def _progress(items: Sequence[T], label: str) -> Iterable[T]:
    """A live bar on a terminal, a line every ten seconds in a log."""
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import track

        yield from track(items, description=label, console=Console(stderr=True))
        return
    last = time.monotonic()
    for i, item in enumerate(items, 1):
        yield item
        if time.monotonic() - last > LOG_SECONDS or i == len(items):
            last = time.monotonic()
            logger.info("%s: %d of %d", label, i, len(items))
