"""A tiny COCO-format folder on disk, and changes to it."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from coco_files import SIZE, coco_content
from PIL import Image


@pytest.fixture(autouse=True)
def _loggers() -> Iterator[None]:
    """Undo what a run does to the loggers: handlers on a stream that pytest closes, no propagation to caplog."""
    loggers = [logging.getLogger(n) for n in ("detrex", "detrex_ops", "projects", "detectron2", "fvcore")]
    before = [(logger.handlers[:], logger.propagate, logger.level) for logger in loggers]
    yield
    for logger, (handlers, propagate, level) in zip(loggers, before, strict=True):
        logger.handlers[:], logger.propagate = handlers, propagate
        logger.setLevel(level)


@pytest.fixture
def content() -> dict[str, Any]:
    """The content of a clean json, to be changed by the test."""
    return coco_content()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the image files that ``coco_content`` names."""
    rng = np.random.default_rng(0)
    for i in range(4):
        Image.fromarray(rng.integers(0, 255, (*SIZE, 3), dtype=np.uint8)).save(tmp_path / f"{i}.png")
    return tmp_path


@pytest.fixture
def write(folder: Path) -> Callable[..., str]:
    """Write a json into the folder and return its path."""

    def _write(content: object, name: str = "train.json") -> str:
        path = folder / name
        path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
        return str(path)

    return _write
