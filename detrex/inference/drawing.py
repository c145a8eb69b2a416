"""Pictures: boxes with labels on images, and grids of pictures."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from .fonts import fitted

__all__ = ["BoxLayer", "class_colour", "comparison_grid", "draw_boxes", "picture_grid", "titled"]

GOLDEN_RATIO = 0.618034
WHITE, BLACK = (255, 255, 255), (0, 0, 0)
GAP, LINE_HEIGHT, TITLE_SIZE = 8, 16, 12  # pixels


@dataclass(frozen=True)
class BoxLayer:
    """Boxes to draw on one image.

    Attributes:
        boxes: (N, 4), xyxy in pixels.
        labels: text of each box.
        class_ids: choose the colours.
    """

    boxes: np.ndarray
    labels: Sequence[str]
    class_ids: Sequence[int]


def class_colour(class_id: int) -> tuple[int, int, int]:
    """RGB of a class; neighbouring ids differ by the golden ratio of the colour circle, so many stay apart."""
    red, green, blue = colorsys.hsv_to_rgb((0.02 + class_id * GOLDEN_RATIO) % 1.0, 0.85, 0.95)
    return int(red * 255), int(green * 255), int(blue * 255)


def draw_boxes(image: np.ndarray | Image.Image, layer: BoxLayer, *, scale: float = 1.0) -> Image.Image:
    """Draw outlined, labelled boxes on a copy of an image.

    Args:
        image: RGB, (H, W, 3) uint8 or a PIL image.
        layer: what to draw; later boxes over earlier ones.
        scale: enlarges the image first, for small ones.
    """
    picture = Image.fromarray(image) if isinstance(image, np.ndarray) else image.copy()
    if scale != 1.0:
        size = (round(picture.width * scale), round(picture.height * scale))
        picture = picture.resize(size, Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(picture)
    unit = max(min(picture.size) / 400, 0.7)
    size = max(round(11 * unit), 10)
    for box, label, class_id in zip(layer.boxes, layer.labels, layer.class_ids, strict=True):
        colour = class_colour(int(class_id))
        x1, y1, x2, y2 = (float(v) * scale for v in box)
        draw.rectangle((x1, y1, max(x1, x2), max(y1, y2)), outline=colour, width=max(round(2 * unit), 1))
        _draw_label(draw, label, (x1, y1), colour, size)
    return picture


def _draw_label(draw: ImageDraw.ImageDraw, text: str, corner: tuple[float, float], colour: tuple, size: int) -> None:
    """On a chip of the class's colour above the box, or inside it where the image ends."""
    if not text:
        return
    text, font = fitted(text, size)
    left, top, right, bottom = draw.textbbox((0, 0), text, font=font)
    width, height = right - left + 4, bottom + 3
    x = min(max(corner[0], 0), max(draw.im.size[0] - width, 0))
    y = corner[1] - height if corner[1] >= height else max(corner[1], 0)
    draw.rectangle((x, y, x + width, y + height), fill=colour)
    light = np.dot(colour, (0.299, 0.587, 0.114)) > 140
    draw.text((x + 2, y + 1 - min(top, 0)), text, fill=BLACK if light else WHITE, font=font)


def comparison_grid(
    rows: Sequence[tuple[np.ndarray | Image.Image, BoxLayer, BoxLayer]],
    *,
    columns: int = 4,
    width: int = 240,
    titles: tuple[str, str] = ("ground truth", "prediction"),
) -> Image.Image:
    """Pairs of pictures, ground truth on the left and prediction on the right, in a grid.

    Args:
        rows: (image, ground truth, prediction) of each pair.
        columns: pairs in a row of the grid.
        width: of one picture in pixels.
        titles: above the pictures.
    """
    pairs = []
    for image, *layers in rows:
        scale = width / (image.shape[1] if isinstance(image, np.ndarray) else image.width)
        sides = [draw_boxes(image, layer, scale=scale) for layer in layers]
        pairs.append(picture_grid([titled(*side) for side in zip(sides, titles, strict=True)], columns=2, gap=2))
    return picture_grid(pairs, columns=columns, margin=GAP)


def picture_grid(pictures: Sequence[Image.Image], *, columns: int, gap: int = GAP, margin: int = 0) -> Image.Image:
    """Pictures of any sizes in rows; columns are as wide as the widest picture, rows as high as their highest.

    Args:
        pictures: in reading order.
        columns: at most.
        gap: between them in pixels.
        margin: around them in pixels.
    """
    columns = min(columns, max(len(pictures), 1))
    lines = [pictures[i : i + columns] for i in range(0, len(pictures), columns)]
    width = max((picture.width for picture in pictures), default=0) + gap
    heights = [max(picture.height for picture in line) + gap for line in lines]
    size = (max(columns * width - gap, 1) + 2 * margin, max(sum(heights) - gap, 1) + 2 * margin)
    sheet, y = Image.new("RGB", size, WHITE), margin
    for line, height in zip(lines, heights, strict=True):
        for column, picture in enumerate(line):
            sheet.paste(picture, (margin + column * width, y))
        y += height
    return sheet


def titled(picture: Image.Image, *lines: str, min_width: int = 0) -> Image.Image:
    """A picture below lines of text, which are cut off at its width.

    Args:
        picture: RGB. lines: from top to bottom.
        min_width: of the result in pixels.
    """
    head = LINE_HEIGHT * len(lines) + 4
    sheet = Image.new("RGB", (max(picture.width, min_width), picture.height + head), WHITE)
    for i, line in enumerate(lines):
        text, font = fitted(line, TITLE_SIZE)
        ImageDraw.Draw(sheet).text((2, 1 + LINE_HEIGHT * i), text, fill=BLACK, font=font)
    sheet.paste(picture, (0, head))
    return sheet
