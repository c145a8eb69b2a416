"""Pictures of a data set: how its boxes are distributed, and samples before and after augmentation."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from PIL import Image

from detrex.data import CocoData, read_image
from detrex.inference.drawing import BoxLayer, draw_boxes
from detrex.utils.text import printable

__all__ = ["draw_samples", "draw_statistics"]

MAX_CLASSES = 30  # bars in the histogram; the rest is summed up
PICTURE_HEIGHT = 420  # pixels of a sample in the grid


def draw_statistics(splits: dict[str, CocoData], output: str | os.PathLike[str]) -> None:
    """Draw boxes per class, sizes, aspect ratios and boxes per image of each split.

    Args:
        splits: name -> data.
        output: picture to write; the type follows from the suffix.
    """
    from matplotlib.figure import Figure  # without pyplot: no window system, no global state

    figure = Figure(figsize=(13, 8), layout="constrained")
    (classes, sizes), (aspects, counts) = figure.subplots(2, 2)
    _draw_classes(classes, splits)
    boxes = {name: _relative_boxes(data) for name, data in splits.items()}
    _histogram(sizes, {n: np.sqrt(b[:, 0] * b[:, 1]) for n, b in boxes.items()}, np.linspace(0, 1, 41))
    sizes.set_xlabel("box size: square root of its share of the image's area")
    _histogram(aspects, {n: np.log2(b[:, 2]) for n, b in boxes.items()}, np.linspace(-4, 4, 41))
    aspects.set_xticks(range(-4, 5), ["1:16", "1:8", "1:4", "1:2", "1:1", "2:1", "4:1", "8:1", "16:1"])
    aspects.set_xlabel("width : height of a box in pixels")
    per_image = {n: np.array([len(r["annotations"]) for r in data.records]) for n, data in splits.items()}
    most = max((int(v.max()) for v in per_image.values() if len(v)), default=0)
    _histogram(counts, per_image, np.linspace(-0.5, most + 0.5, min(most + 2, 60)))
    counts.set_xlabel("boxes on an image")
    figure.savefig(output, dpi=100)


def draw_samples(
    data: CocoData,
    mapper: Callable[[dict[str, Any]], dict[str, Any]],
    output: str | os.PathLike[str],
    *,
    count: int = 6,
    seed: int = 0,
) -> int:
    """Draw training samples with their boxes, left as in the files, right as the model will see them.

    Args:
        data: what to draw from; images with boxes come first.
        mapper: of the training loader.
        output: picture to write.
        count: samples at most.
        seed: chooses them.

    Returns:
        Number of samples drawn; images that cannot be read are passed over, and without any nothing is written.
    """
    from matplotlib.figure import Figure

    order = np.random.default_rng(seed).permutation(len(data.records))
    records = sorted((data.records[i] for i in order), key=lambda r: not r["annotations"])
    pairs = []
    for record in records[: 4 * count]:
        try:
            image, sample = read_image(record["file_name"]), mapper(dict(record))
        except (OSError, ValueError):
            continue
        pairs.append((_before(image, record), _after(sample, mapper)))
        if len(pairs) == count:
            break
    if not pairs:
        return 0
    columns = min(len(pairs), 2)
    rows = -(-len(pairs) // columns)
    figure = Figure(figsize=(7 * columns, 3 * rows + 0.3), layout="constrained")
    axes = figure.subplots(rows, 2 * columns, squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    for i, pair in enumerate(pairs):
        for side, (picture, title) in enumerate(zip(pair, ("file", "after augmentation"), strict=True)):
            axis = axes[i // columns, 2 * (i % columns) + side]
            axis.imshow(_with_boxes(*picture, data.class_names))
            axis.set_title(f"{title}, {picture[0].shape[1]}x{picture[0].shape[0]}", fontsize=8)
    figure.savefig(output, dpi=110)
    return len(pairs)


def _before(image: np.ndarray, record: dict[str, Any]) -> tuple[np.ndarray, np.ndarray, list[int]]:
    """RGB, boxes (xyxy) and classes of the file."""
    xywh = np.array([a["bbox"] for a in record["annotations"]]).reshape(-1, 4)
    boxes = np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], 1)
    return image, boxes, [a["category_id"] for a in record["annotations"]]


def _after(sample: dict[str, Any], mapper: Any) -> tuple[np.ndarray, np.ndarray, list[int]]:
    """RGB, boxes (xyxy) and classes of the mapped sample."""
    image, instances = sample["image"].numpy().transpose(1, 2, 0), sample["instances"]
    rgb = image[..., ::-1] if getattr(mapper, "img_format", "RGB") == "BGR" else image
    return np.ascontiguousarray(rgb), instances.gt_boxes.tensor.numpy(), instances.gt_classes.tolist()


def _with_boxes(image: np.ndarray, boxes: np.ndarray, classes: list[int], names: Sequence[str]) -> Image.Image:
    layer = BoxLayer(boxes, [printable(names[c]) for c in classes], classes)
    return draw_boxes(image, layer, scale=PICTURE_HEIGHT / image.shape[0])


def _draw_classes(axis, splits: dict[str, CocoData]) -> None:
    first = next(iter(splits.values()))
    totals = np.sum([d.count_per_class() for d in splits.values() if d.class_names == first.class_names], axis=0)
    order = np.argsort(-totals, kind="stable")
    shown, rest = order[:MAX_CLASSES], order[MAX_CLASSES:]
    width = 0.8 / len(splits)
    labels = [printable(first.class_names[i])[:24] for i in shown]
    labels += [f"{len(rest)} others"] if len(rest) else []
    for k, (name, data) in enumerate(splits.items()):
        counts = np.array(data.count_per_class())
        if data.class_names != first.class_names:
            continue
        values = [*counts[shown], counts[rest].sum()] if len(rest) else counts[shown]
        axis.bar(np.arange(len(labels)) + k * width, values, width, label=name)
    ticks = axis.set_xticks(np.arange(len(labels)) + 0.4 - width / 2, labels, rotation=45, ha="right", fontsize=8)
    for tick in ticks:
        tick.label1.set_parse_math(False)  # a "$" in a name is no formula
    axis.set_ylabel("boxes")
    axis.legend(fontsize=8)


def _histogram(axis, values: dict[str, np.ndarray], bins: np.ndarray) -> None:
    """Shares of each split, so that small splits can be compared with large ones."""
    for name, numbers in values.items():
        if len(numbers):
            clipped = np.clip(numbers, bins[0], bins[-1])
            axis.hist(clipped, bins=bins, weights=np.full(len(numbers), 1 / len(numbers)), histtype="step", label=name)
    axis.set_ylabel("share")
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)


def _relative_boxes(data: CocoData) -> np.ndarray:
    """(N, 3): width and height as shares of the image's, and width / height in pixels."""
    rows = [
        (w / r["width"], h / r["height"], w / h)
        for r in data.records
        for _, _, w, h in (a["bbox"] for a in r["annotations"])
    ]
    return np.array(rows, dtype=np.float64).reshape(-1, 3)
