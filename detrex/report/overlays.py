"""Images with shapes over them; the page draws the shapes as SVG, sharp at any size, over the image itself."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from PIL import Image

from detrex.inference.drawing import class_colour

__all__ = ["Dot", "Picture", "Rectangle", "crop", "embed", "found_boxes", "true_boxes"]

QUALITY = 85  # of the embedded JPEG


@dataclass(frozen=True)
class Rectangle:
    """A box: its corner and size in units of the picture, a style of the page's, a label and a text to hover for."""

    x: float
    y: float
    width: float
    height: float
    style: str
    colour: str
    label: str = ""
    title: str = ""
    opacity: float = 1.0


@dataclass(frozen=True)
class Dot:
    """A point: its centre, its radius, a colour of the page's palette, how opaque it is."""

    x: float
    y: float
    radius: float
    colour: int
    opacity: float


@dataclass(frozen=True)
class Picture:
    """An embedded image of ``width`` x ``height`` units.

    Attributes:
        source: "data:" URI. alt: what it shows. caption: below it.
        rectangles, dots: over it, the last ones on top.
    """

    source: str
    width: int
    height: int
    alt: str
    caption: str = ""
    rectangles: Sequence[Rectangle] = ()
    dots: Sequence[Dot] = field(default=(), repr=False)


def embed(image: np.ndarray, width: int) -> tuple[str, int, int, float]:
    """Shrink or enlarge an (H, W, 3) uint8 RGB image and encode it.

    Returns:
        "data:" URI, width, height, and units per pixel of the original.
    """
    scale = width / image.shape[1]
    size = (width, max(round(image.shape[0] * scale), 1))
    buffer = io.BytesIO()
    Image.fromarray(image).resize(size, Image.Resampling.LANCZOS).save(buffer, "JPEG", quality=QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii"), *size, scale


def true_boxes(objects: Sequence[Mapping[str, Any]], names: Mapping[int, str], scale: float = 1.0) -> list[Rectangle]:
    """Annotations of a COCO json, xywh in pixels of an image, as rectangles at ``scale``."""
    return [_rectangle(o, names, scale, "crowd" if o.get("iscrowd", 0) else "truth") for o in objects]


def found_boxes(found: Sequence[Mapping[str, Any]], names: Mapping[int, str], scale: float = 1.0) -> list[Rectangle]:
    """Detections of a COCO results file, likewise; the best are drawn last."""
    return [_rectangle(d, names, scale, "found") for d in sorted(found, key=lambda d: d["score"])]


def crop(
    image: np.ndarray,
    focus: Sequence[float],
    rectangles: Sequence[Rectangle],
    dots: Sequence[Dot] = (),
    *,
    alt: str,
    caption: str,
    margin: float = 2.2,
    width: int = 300,
    aspect: float = 0.75,
) -> Picture:
    """The surroundings of a box.

    Args:
        image: (H, W, 3) uint8 RGB.
        focus: the box, xywh in pixels.
        rectangles, dots: to draw, in pixels of the full image; a dot's radius is in units of the picture.
        alt, caption: of the picture.
        margin: how many times as wide and high as the box it is at least.
        width: of the picture in units. aspect: its height divided by its width.
    """
    height, full_width = image.shape[:2]
    x, y, w, h = focus
    wanted = max(margin * w, margin * h / aspect, 0.3 * full_width, 48)
    span_x, span_y = min(wanted, full_width), min(wanted * aspect, height)
    left = round(min(max(x + w / 2 - span_x / 2, 0), full_width - span_x))
    top = round(min(max(y + h / 2 - span_y / 2, 0), height - span_y))
    part = image[top : top + max(round(span_y), 1), left : left + max(round(span_x), 1)]
    source, width, part_height, scale = embed(part, width)
    boxes = [
        replace(r, x=(r.x - left) * scale, y=(r.y - top) * scale, width=r.width * scale, height=r.height * scale)
        for r in rectangles
    ]
    points = [replace(d, x=round((d.x - left) * scale, 1), y=round((d.y - top) * scale, 1)) for d in dots]
    return Picture(source, width, part_height, alt, caption, boxes, points)


def _rectangle(entry: Mapping[str, Any], names: Mapping[int, str], scale: float, style: str) -> Rectangle:
    name = names[entry["category_id"]]
    label = f"{name} {entry['score']:.2f}" if "score" in entry else name
    colour = "rgb{}".format(class_colour(list(names).index(entry["category_id"])))
    return Rectangle(*(v * scale for v in entry["bbox"]), style, colour, label, label)
