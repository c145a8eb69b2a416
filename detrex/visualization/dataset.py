"""What a model is trained on, as pictures. ``tools/visualize_data.py`` is a thin shell around :func:`main`."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.config import instantiate
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode
from detectron2.utils.env import seed_all_rng
from omegaconf import DictConfig
from PIL import Image, ImageDraw, ImageFont

from detrex.config import ConfigError, load_config
from detrex.data import prepare_data, read_image
from detrex.inference.drawing import BoxLayer, draw_boxes

__all__ = ["DataSample", "annotated_images", "build_parser", "loaded_samples", "main", "picture"]

SOURCES = ("loader", "annotations")
CELL, COLUMNS, GAP = 320, 4, 8  # of the grid, in pixels
STRIPE = 6  # pixels of the pattern that stands for padding
INK, PAPER, STRIPES = (40, 40, 40), (255, 255, 255), ((205, 205, 205), (225, 225, 225))


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
    names = MetadataCatalog.get(_first(cfg.dataloader.train.dataset.names)).get("thing_classes")
    is_bgr = cfg.dataloader.train.mapper.get("img_format", "RGB") == "BGR"
    for number, batch in enumerate(instantiate(cfg.dataloader.train)):
        padded = tuple(max(x["image"].shape[axis] for x in batch) for axis in (-2, -1))
        for x in batch:
            image = x["image"].numpy().transpose(1, 2, 0)
            image = np.ascontiguousarray(image[..., ::-1] if is_bgr else image).astype(np.uint8)
            classes = x["instances"].gt_classes.tolist()
            layer = BoxLayer(x["instances"].gt_boxes.tensor.numpy(), [_name(names, c) for c in classes], classes)
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
    names = MetadataCatalog.get(name).get("thing_classes")
    for record in DatasetCatalog.get(name):
        image, objects = read_image(record["file_name"]), record["annotations"]
        boxes = [BoxMode.convert(o["bbox"], o["bbox_mode"], BoxMode.XYXY_ABS) for o in objects]
        labels = [_name(names, o["category_id"]) + (" (crowd)" if o.get("iscrowd", 0) else "") for o in objects]
        layer = BoxLayer(np.array(boxes, dtype=float).reshape(-1, 4), labels, [o["category_id"] for o in objects])
        height, width = image.shape[:2]
        title = f"image {record['image_id']}, {width}x{height}"
        yield DataSample(image, (height, width), layer, record["file_name"], title)


def picture(sample: DataSample, width: int | None = None) -> Image.Image:
    """A sample with its boxes, its padding striped, below a line of text.

    Args:
        sample: what to draw. width: of the picture in pixels; None leaves pixels as they are.
    """
    height, full_width = sample.padded_size
    scale = 1.0 if width is None else width / full_width
    drawn = draw_boxes(sample.image, sample.layer, scale=scale)
    canvas = _striped(round(full_width * scale), round(height * scale))
    canvas.paste(drawn, (0, 0))
    font = ImageFont.load_default(size=12)
    lines = [sample.title, Path(sample.file).name]
    head = 16 * len(lines) + 4
    sheet = Image.new("RGB", (max(canvas.width, 160), canvas.height + head), PAPER)
    sheet.paste(canvas, (0, head))
    for i, line in enumerate(lines):
        ImageDraw.Draw(sheet).text((2, 1 + 16 * i), line, fill=INK, font=font)
    return sheet


def draw_samples(samples: Sequence[DataSample], output: str | os.PathLike[str]) -> None:
    """Write ``grid.png`` and a picture for each sample into a folder, which is created if needed."""
    folder = Path(output)
    folder.mkdir(parents=True, exist_ok=True)
    digits = len(str(len(samples)))
    for i, sample in enumerate(samples, 1):
        picture(sample).save(folder / f"{i:0{digits}d}_{Path(sample.file).stem}.png")
    cells = [picture(sample, CELL) for sample in samples]
    columns = min(COLUMNS, len(cells))
    rows = [cells[i : i + columns] for i in range(0, len(cells), columns)]
    heights = [max(cell.height for cell in row) + GAP for row in rows]
    grid = Image.new("RGB", (columns * (CELL + GAP) + GAP, sum(heights) + GAP), PAPER)
    for r, row in enumerate(rows):
        for c, cell in enumerate(row):
            grid.paste(cell, (GAP + c * (CELL + GAP), GAP + sum(heights[:r])))
    grid.save(folder / "grid.png")


def _striped(width: int, height: int) -> Image.Image:
    """Diagonal stripes, which no photograph has."""
    y, x = np.indices((height, width))
    return Image.fromarray(np.array(STRIPES, dtype=np.uint8)[(x + y) // STRIPE % 2])


def _first(names: Any) -> str:
    return names if isinstance(names, str) else names[0]


def _name(names: Sequence[str] | None, class_id: int) -> str:
    return names[class_id] if names else f"class {class_id}"


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description="Draw what a model is trained on: images with boxes and class names.")
    parser.add_argument("--config-file", required=True, metavar="FILE", help="config of a run")
    parser.add_argument("--output", required=True, metavar="FOLDER", help="grid.png and single pictures go here")
    parser.add_argument("--source", choices=SOURCES, default="loader",
                        help="loader: augmented, as the model gets them, padding striped; annotations: as they lie on "
                        "the disk (%(default)s)")  # fmt: skip
    parser.add_argument("--limit", type=int, default=16, metavar="N", help="images (%(default)s)")
    parser.add_argument("opts", nargs="*", metavar="KEY=VALUE", help="overrides of the config")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: 0, or 2 for a wrong command line, config or data."""
    parser = build_parser()
    args = parser.parse_intermixed_args(argv)
    if args.limit < 1:
        parser.error("--limit must be at least 1")
    try:
        cfg = load_config(args.config_file, args.opts)
        prepare_data(cfg)
        seed_all_rng(None if cfg.train.seed < 0 else cfg.train.seed)
        cfg.dataloader.train.num_workers = 0  # a few images: a worker takes longer to start than to load them
        stream = loaded_samples(cfg) if args.source == "loader" else annotated_images(cfg)
        samples = list(islice(stream, args.limit))
        draw_samples(samples, args.output)
    except (ConfigError, OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    objects = sum(len(sample.layer.labels) for sample in samples)
    print(f"{len(samples)} images with {objects} objects: {args.output}")
    return 0
