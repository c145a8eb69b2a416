"""Pictures: boxes on images, predictions beside the ground truth, and the curves of a run."""

from __future__ import annotations

import colorsys
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

__all__ = ["BoxLayer", "class_colour", "comparison_grid", "draw_boxes", "read_metrics", "training_curve"]

GOLDEN_RATIO = 0.618034
WHITE, BLACK = (255, 255, 255), (0, 0, 0)


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
    font = ImageFont.load_default(size=max(round(11 * unit), 10))
    for box, label, class_id in zip(layer.boxes, layer.labels, layer.class_ids, strict=True):
        colour = class_colour(int(class_id))
        x1, y1, x2, y2 = (float(v) * scale for v in box)
        draw.rectangle((x1, y1, max(x1, x2), max(y1, y2)), outline=colour, width=max(round(2 * unit), 1))
        _draw_label(draw, label, (x1, y1), colour, font)
    return picture


def _draw_label(
    draw: ImageDraw.ImageDraw, text: str, corner: tuple[float, float], colour: tuple, font: ImageFont.ImageFont
) -> None:
    """On a chip of the class's colour above the box, or inside it where the image ends."""
    if not text:
        return
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
    gap, header = 8, 20
    pairs = []
    for image, truth, prediction in rows:
        picture_width = image.shape[1] if isinstance(image, np.ndarray) else image.width
        pairs.append([draw_boxes(image, layer, scale=width / picture_width) for layer in (truth, prediction)])
    columns = min(columns, max(len(pairs), 1))
    lines = [pairs[i : i + columns] for i in range(0, len(pairs), columns)]
    heights = [max(picture.height for pair in line for picture in pair) for line in lines]
    pair_width = 2 * width + 2 + gap
    sheet = Image.new("RGB", (columns * pair_width + gap, header + sum(heights) + gap * (len(lines) + 1)), WHITE)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=13)
    for column in range(columns):
        for side, title in enumerate(titles):
            draw.text((gap + column * pair_width + side * (width + 2), 3), title, fill=BLACK, font=font)
    y = header
    for line, height in zip(lines, heights, strict=True):
        for column, pair in enumerate(line):
            for side, picture in enumerate(pair):
                sheet.paste(picture, (gap + column * pair_width + side * (width + 2), y))
        y += height + gap
    return sheet


def read_metrics(path: str | os.PathLike[str]) -> dict[str, tuple[list[int], list[float]]]:
    """Curves of a ``metrics.json`` (JSON lines): name -> (iterations, values). Lines cut off by a crash are left out.

    Raises:
        FileNotFoundError: there is no such file.
    """
    curves: dict[str, tuple[list[int], list[float]]] = {}
    for line in Path(path).read_text(encoding="utf-8").splitlines():
        try:
            record = json.loads(line)
            iteration = int(record.pop("iteration"))
        except (ValueError, KeyError, AttributeError):
            continue
        for name, value in record.items():
            if isinstance(value, (int, float)):
                iterations, values = curves.setdefault(name, ([], []))
                iterations.append(iteration)
                values.append(float(value))
    return curves


def training_curve(metrics: str | os.PathLike[str], output: str | os.PathLike[str], *, title: str = "") -> None:
    """Draw losses, AP and learning rate over the iterations of a run.

    Args:
        metrics: the run's ``metrics.json``.
        output: picture to write; the type follows from the suffix.
        title: above the panels.

    Raises:
        FileNotFoundError: there is no such ``metrics.json``.
    """
    from matplotlib.figure import Figure  # without pyplot: no window system, no global state

    curves = read_metrics(metrics)
    figure = Figure(figsize=(13, 3.8), layout="constrained")
    loss_axis, ap_axis, lr_axis = figure.subplots(1, 3)
    final = [n for n in ("total_loss", "loss_class", "loss_bbox", "loss_giou") if n in curves]
    _plot(loss_axis, curves, final, "loss (weighted)", log=True)
    _plot(
        ap_axis, curves, [n for n in ("bbox/AP", "bbox/AP50", "bbox/AP75") if n in curves], "AP in percent", marker="o"
    )
    ap_axis.set_ylim(0, 100)
    _plot(lr_axis, curves, [n for n in ("lr",) if n in curves], "learning rate")
    figure.suptitle(title)
    figure.savefig(output, dpi=110)


def _plot(axis, curves: dict, names: Sequence[str], label: str, *, log: bool = False, marker: str = "") -> None:
    for name in names:
        axis.plot(*curves[name], label=name.removeprefix("bbox/"), marker=marker, markersize=4)
    axis.set_xlabel("iteration")
    axis.set_ylabel(label)
    axis.grid(alpha=0.3)
    if log and names:
        axis.set_yscale("log")
    if names:
        axis.legend(fontsize=8)
    else:
        axis.text(0.5, 0.5, "not recorded", ha="center", va="center", transform=axis.transAxes)
