"""Pictures of a data set: what a model is trained on, and how its boxes are distributed."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.config import instantiate
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode
from omegaconf import DictConfig
from PIL import Image

from detrex.data import CocoData, read_image
from detrex.inference.detections import class_name
from detrex.inference.drawing import BoxLayer, draw_boxes, picture_grid, titled
from detrex.inference.fonts import drawable
from detrex.utils.regular_files import is_machine_fault

from .charts import figure_with

__all__ = [
    "DataSample",
    "annotated_images",
    "draw_augmentation",
    "draw_samples",
    "draw_statistics",
    "loaded_samples",
    "picture",
]

CELL, COLUMNS = 320, 4  # of the grid: pixels, pictures
STRIPE, STRIPES = 6, ((205, 205, 205), (225, 225, 225))  # of the pattern that stands for padding
PICTURE_HEIGHT = 420  # pixels of a sample beside its augmentation
MAX_CLASSES = 30  # bars in the histogram; the rest is summed up


# ------------------------------------------------------------------------------------------------------------ samples
@dataclass(frozen=True)
class DataSample:
    """An image with its objects.

    Attributes:
        image: (h, w, 3) uint8 RGB.
        padded_size: (height, width) of its batch, whose lower right it does not fill; its own size where there is none.
        layer: boxes (xyxy in pixels of ``image``), class names and ids.
        file: path. title: what stands above the picture.
    """

    image: np.ndarray
    padded_size: tuple[int, int]
    layer: BoxLayer
    file: str
    title: str


def loaded_samples(cfg: DictConfig) -> Iterator[DataSample]:
    """Samples of ``cfg.dataloader.train`` as the model gets them, augmented and in batches; endless.

    Args:
        cfg: of a run, its data prepared.
    """
    names = MetadataCatalog.get(_first(cfg.dataloader.train.dataset.names)).get("thing_classes") or ()
    channels = cfg.dataloader.train.mapper.get("img_format", "RGB")
    for number, batch in enumerate(instantiate(cfg.dataloader.train)):
        padded = tuple(max(x["image"].shape[axis] for x in batch) for axis in (-2, -1))
        for x in batch:
            image, layer = _mapped(x, names, channels)
            height, width = image.shape[:2]
            title = f"batch {number}, image {x.get('image_id', '?')}, {width}x{height} of {padded[1]}x{padded[0]}"
            yield DataSample(image, padded, layer, x["file_name"], title)


def annotated_images(cfg: DictConfig) -> Iterator[DataSample]:
    """The training images as they lie on the disk, in the order of the data set; crowds are named so.

    Args:
        cfg: of a run, its data prepared.

    Raises:
        OSError: an image cannot be read.
    """
    name = _first(cfg.dataloader.train.dataset.names)
    records = DatasetCatalog.get(name)
    names = MetadataCatalog.get(name).get("thing_classes") or ()
    for record in records:
        image = read_image(record["file_name"])
        height, width = image.shape[:2]
        title = f"image {record['image_id']}, {width}x{height}"
        yield DataSample(image, (height, width), _annotated(record, names), record["file_name"], title)


def picture(sample: DataSample, width: int | None = None) -> Image.Image:
    """A sample with its boxes, its padding striped, below its title and file name.

    Args:
        sample: what to draw. width: of the picture in pixels; None leaves pixels as they are.
    """
    height, full_width = sample.padded_size
    scale = 1.0 if width is None else width / full_width
    y, x = np.indices((round(height * scale), round(full_width * scale)))
    canvas = Image.fromarray(np.array(STRIPES, dtype=np.uint8)[(x + y) // STRIPE % 2])  # no photograph has them
    canvas.paste(draw_boxes(sample.image, sample.layer, scale=scale), (0, 0))
    return titled(canvas, sample.title, Path(sample.file).name, min_width=160)


def draw_samples(samples: Sequence[DataSample], output: str | os.PathLike[str]) -> None:
    """Write ``grid.png`` and a picture for each sample into a folder, which is created if needed."""
    folder = Path(output)
    folder.mkdir(parents=True, exist_ok=True)
    digits = len(str(len(samples)))
    for i, sample in enumerate(samples, 1):
        picture(sample).save(folder / f"{i:0{digits}d}_{Path(sample.file).stem}.png")
    picture_grid([picture(sample, CELL) for sample in samples], columns=COLUMNS, margin=8).save(folder / "grid.png")


def draw_augmentation(
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
    order = np.random.default_rng(seed).permutation(len(data.records))
    records = sorted((data.records[i] for i in order), key=lambda r: not r["annotations"])
    pairs: list[Image.Image] = []
    for record in records[: 4 * count]:
        if len(pairs) == count:
            break
        try:
            image, sample = read_image(record["file_name"]), mapper(dict(record))
        except (OSError, ValueError) as error:
            if is_machine_fault(error):
                raise
            continue
        sides = {
            "file": (image, _annotated(record, data.class_names)),
            "after augmentation": _mapped(sample, data.class_names, getattr(mapper, "img_format", "RGB")),
        }
        drawn = [
            titled(
                draw_boxes(pixels, layer, scale=PICTURE_HEIGHT / pixels.shape[0]),
                f"{title}, {pixels.shape[1]}x{pixels.shape[0]}",
            )
            for title, (pixels, layer) in sides.items()
        ]
        pairs.append(picture_grid(drawn, columns=2))
    if pairs:
        picture_grid(pairs, columns=2, gap=24, margin=8).save(output)
    return len(pairs)


def _annotated(record: dict[str, Any], names: Sequence[str]) -> BoxLayer:
    """The boxes of a record; crowds are named so."""
    objects = record["annotations"]
    boxes = [BoxMode.convert(o["bbox"], o["bbox_mode"], BoxMode.XYXY_ABS) for o in objects]
    labels = [class_name(names, o["category_id"]) + (" (crowd)" if o.get("iscrowd", 0) else "") for o in objects]
    return BoxLayer(np.array(boxes, dtype=float).reshape(-1, 4), labels, [o["category_id"] for o in objects])


def _mapped(sample: dict[str, Any], names: Sequence[str], channels: str) -> tuple[np.ndarray, BoxLayer]:
    """RGB (h, w, 3) uint8 and boxes of what a training mapper returns."""
    image, instances = sample["image"].numpy().transpose(1, 2, 0), sample["instances"]
    classes = instances.gt_classes.tolist()
    layer = BoxLayer(instances.gt_boxes.tensor.numpy(), [class_name(names, c) for c in classes], classes)
    return np.ascontiguousarray(image[..., ::-1] if channels == "BGR" else image).astype(np.uint8), layer


def _first(names: Any) -> str:
    return names if isinstance(names, str) else names[0]


# --------------------------------------------------------------------------------------------------------- statistics
def draw_statistics(splits: dict[str, CocoData], output: str | os.PathLike[str]) -> None:
    """Draw boxes per class, sizes, aspect ratios and boxes per image of each split.

    Args:
        splits: name -> data.
        output: picture to write; the type follows from the suffix.
    """
    names = [drawable(name)[:24] for name in next(iter(splits.values())).class_names]
    with figure_with(names, output, size=(13, 8), dpi=100) as figure:
        (classes, sizes), (aspects, counts) = figure.subplots(2, 2)
        _draw_classes(classes, splits, names)
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


def _draw_classes(axis, splits: dict[str, CocoData], names: Sequence[str]) -> None:
    first = next(iter(splits.values()))
    alike = {name: data for name, data in splits.items() if data.class_names == first.class_names}
    counts = {name: np.array(data.count_per_class()) for name, data in alike.items()}
    order = np.argsort(-np.sum(list(counts.values()), axis=0), kind="stable")
    shown, rest = order[:MAX_CLASSES], order[MAX_CLASSES:]
    width = 0.8 / len(splits)
    labels = [names[i] for i in shown] + ([f"{len(rest)} others"] if len(rest) else [])
    for k, (name, numbers) in enumerate(counts.items()):
        values = [*numbers[shown], numbers[rest].sum()] if len(rest) else numbers[shown]
        axis.bar(np.arange(len(labels)) + k * width, values, width, label=name)
    axis.set_xticks(np.arange(len(labels)) + 0.4 - width / 2, labels, rotation=45, ha="right", fontsize=8)
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
