"""Boxes that cannot be learnt, and sets of boxes that were written by another format's convention."""

from __future__ import annotations

import math
from collections.abc import Sequence

PIXEL_TOLERANCE = 1.0  # coordinates are commonly rounded
MIN_BOXES = 5  # fewer do not show a convention


def degenerate_reason(bbox_xywh: Sequence[float], width: float, height: float) -> str | None:
    """Why a box (x, y, w, h in pixels) cannot be learnt on an image of this size, or None if it can."""
    x, y, w, h = bbox_xywh
    if not all(math.isfinite(v) for v in (x, y, w, h)):
        return "not finite"
    if w <= 0 or h <= 0:
        return "zero or negative size"
    if x >= width or y >= height or x + w <= 0 or y + h <= 0:
        return "outside the image"
    return None


def overhang(bbox_xywh: Sequence[float], width: float, height: float) -> float:
    """By how many pixels a box (x, y, w, h) leaves its image on the worst side; negative inside."""
    x, y, w, h = bbox_xywh
    return max(-x, -y, x + w - width, y + h - height)


def wrong_convention(boxes: Sequence[tuple[Sequence[float], float, float]]) -> str | None:
    """What the boxes of a data set are, if not (x, y, w, h) in pixels; None if they may be that.

    Args:
        boxes: (four numbers, image width, image height) of each.
    """
    finite = [(b, w, h) for b, w, h in boxes if all(math.isfinite(v) for v in b)]
    if len(finite) < MIN_BOXES:
        return None
    if all(0 <= v <= 1 for b, _, _ in finite for v in b):
        return "all coordinates lie between 0 and 1: they are fractions of the image, not pixels"
    leaving = sum(overhang(b, w, h) > PIXEL_TOLERANCE for b, w, h in finite)
    if 2 * leaving > len(finite) and all(_fits_as_corners(b, w, h) for b, w, h in finite):
        return (
            f"{leaving} of {len(finite)} boxes leave their image as (x, y, width, height), and all fit as "
            "(x1, y1, x2, y2)"
        )
    return None


def _fits_as_corners(values: Sequence[float], width: float, height: float) -> bool:
    x1, y1, x2, y2 = values
    return x1 < x2 and y1 < y2 and max(-x1, -y1, x2 - width, y2 - height) <= PIXEL_TOLERANCE
