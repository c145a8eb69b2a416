"""Images, folders and videos in; drawn copies and ``predictions.json`` out."""

from __future__ import annotations

import glob
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

from detrex.data import read_image

from .pictures import BoxLayer, draw_boxes
from .predictor import Predictor, instances_to_records

__all__ = ["Summary", "annotate", "find_inputs"]

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".ppm"})
VIDEO_SUFFIXES = frozenset({".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg"})
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


def find_inputs(inputs: Sequence[str]) -> list[str]:
    """Files named by paths, folders (their images and videos, sorted) and glob patterns.

    Raises:
        FileNotFoundError: an input that names nothing, or nothing that looks like an image or a video.
    """
    files: list[str] = []
    for item in inputs:
        expanded = os.path.expanduser(item)
        if os.path.isdir(expanded):
            known = IMAGE_SUFFIXES | VIDEO_SUFFIXES
            found = sorted(str(p) for p in Path(expanded).iterdir() if p.suffix.lower() in known)
        else:
            found = [expanded] if os.path.exists(expanded) else sorted(glob.glob(expanded, recursive=True))
        if not found:
            raise FileNotFoundError(f"{item}: no such file, or no images or videos in the folder")
        files += found
    return list(dict.fromkeys(files))


def annotate(
    predictor: Predictor, files: Sequence[str], output: str | os.PathLike[str], *, threshold: float = 0.3
) -> Summary:
    """Detect on each file, write a drawn copy into ``output`` and all detections to ``output/predictions.json``.

    A file that cannot be read is logged by name, left out and counted.

    Args:
        predictor: detects.
        files: images and videos.
        output: folder; created if needed.
        threshold: lowest score that is drawn and written.

    Raises:
        ValueError: an output file would overwrite its input.
    """
    folder = Path(output)
    folder.mkdir(parents=True, exist_ok=True)
    targets = _targets(files, folder)
    records: list[dict[str, Any]] = []
    failed: list[tuple[str, str]] = []
    for path in _progress(files, "Detecting"):
        is_video = Path(path).suffix.lower() in VIDEO_SUFFIXES
        try:
            draw = _annotate_video if is_video else _annotate_image
            records += draw(predictor, path, targets[path], threshold)
        except (OSError, ValueError) as e:
            failed.append((path, str(e)))
            logger.warning("Skipped %s", e if path in str(e) else f"{path}: {e}")
    with open(folder / "predictions.json", "w", encoding="utf-8") as f:
        json.dump(records, f, indent=1)
    bad = {path for path, _ in failed}
    count = sum(len(r["predictions"]) for r in records)
    return Summary(tuple(p for p in files if p not in bad), tuple(failed), count)


def _annotate_image(predictor: Predictor, path: str, target: Path, threshold: float) -> list[dict[str, Any]]:
    image = read_image(path)
    height, width = image.shape[:2]
    found = instances_to_records(predictor(image), predictor, threshold)
    draw_boxes(image, _layer(found)).save(target)
    return [{"file": path, "height": height, "width": width, "predictions": found}]


def _annotate_video(predictor: Predictor, path: str, target: Path, threshold: float) -> list[dict[str, Any]]:
    """One record per frame, with its number as ``frame``."""
    from .video import read_frames, write_frames

    records: list[dict[str, Any]] = []
    rate, frames = read_frames(path)

    def drawn() -> Iterator[np.ndarray]:
        for number, frame in enumerate(frames):
            found = instances_to_records(predictor(frame), predictor, threshold)
            height, width = frame.shape[:2]
            records.append({"file": path, "frame": number, "height": height, "width": width, "predictions": found})
            yield np.asarray(draw_boxes(frame, _layer(found)))

    write_frames(str(target), drawn(), rate)
    return records


def _layer(found: Sequence[dict[str, Any]]) -> BoxLayer:
    """The best detection is drawn last, over the others."""
    found = found[::-1]
    return BoxLayer(
        boxes=np.array([r["box"] for r in found]).reshape(-1, 4),
        labels=[f"{r['category_name']} {r['score']:.2f}" for r in found],
        class_ids=[r["category_id"] for r in found],
    )


def _targets(files: Sequence[str], folder: Path) -> dict[str, Path]:
    """A file name of its own for each input; formats that cannot be drawn into become png, videos mp4."""
    targets, taken = {}, {"predictions.json"}
    for path in files:
        stem, suffix = Path(path).stem, Path(path).suffix.lower()
        if suffix in VIDEO_SUFFIXES:
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
