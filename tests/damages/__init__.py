"""Kinds of damage: each function breaks a good data set (``folders.py``) in one way and says what must be reported."""

from __future__ import annotations

from . import coco, image_files, no_data_set, voc, yolo  # noqa: F401  (they fill DAMAGES)
from .damage import DAMAGES, Damage
from .image_files import png_header

__all__ = ["DAMAGES", "Damage", "png_header"]
