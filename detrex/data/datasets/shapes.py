"""A small detection data set that is drawn, not downloaded: coloured shapes on textured backgrounds.

Circles, squares, triangles, stars and crosses of random colour, size and tilt overlap on noisy gradients. The class is
the shape alone. Boxes are those of the drawn outline, clipped to the image; a shape that would
hide more than half of an earlier one is not drawn. Every image has its own seed, so that a set does not depend on its
size or on the order of drawing.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from detrex.data.checks.paths import list_folder

CLASS_NAMES = ("circle", "square", "triangle", "star", "cross")
GENERATOR_VERSION = 1  # raise it when the drawing changes: existing folders are then drawn anew
STAMP = "demo_shapes.json"
SUPERSAMPLING = 3
MAX_HIDDEN = 0.5
MAX_ANGLE = 0.35  # radians
SPLITS = ("train", "val")


@dataclass(frozen=True)
class ShapesParameters:
    """What defines a set.

    Attributes:
        seed: of all images.
        num_train: images of the training split.
        num_val: images of the validation split.
        image_size: height and width in pixels.
        max_objects: largest number of shapes on an image; the smallest is 1.
        min_scale: smallest diameter of a shape as a fraction of the image.
        max_scale: largest.
    """

    seed: int = 0
    num_train: int = 1000
    num_val: int = 100
    image_size: int = 128
    max_objects: int = 6
    min_scale: float = 0.18
    max_scale: float = 0.5

    def fingerprint(self) -> str:
        """Hash over everything that the images depend on."""
        content = json.dumps([GENERATOR_VERSION, CLASS_NAMES, asdict(self)], sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()[:16]


def make_demo_data(output: str | os.PathLike[str], parameters: ShapesParameters, *, num_workers: int = 1) -> bool:
    """Draw the set into ``output``: ``{train,val}/*.jpg`` and ``annotations/{train,val}.json`` in COCO format.

    Args:
        output: folder; created if needed.
        parameters: what to draw.
        num_workers: processes that draw.

    Returns:
        False if the folder already holds exactly this set, which is then left alone.

    Raises:
        FileExistsError: the folder holds something that is not an earlier demo set.
    """
    folder = Path(output)
    if is_complete(folder, parameters):
        return False
    _clear(folder)
    (folder / "annotations").mkdir(parents=True)
    digest = {}
    for index, (split, count) in enumerate(zip(SPLITS, (parameters.num_train, parameters.num_val), strict=True)):
        (folder / split).mkdir()
        draw = partial(_draw_to_file, parameters=parameters, split=index, folder=folder / split)
        objects = _map(draw, count, num_workers)
        text = json.dumps(_coco(objects, parameters.image_size))
        (folder / "annotations" / f"{split}.json").write_text(text, encoding="utf-8")
        digest[split] = hashlib.sha256(text.encode()).hexdigest()[:16]
    stamp = {"fingerprint": parameters.fingerprint(), "parameters": asdict(parameters), "annotations_sha256": digest}
    (folder / STAMP).write_text(json.dumps(stamp, indent=2) + "\n", encoding="utf-8")  # last: it says "complete"
    return True


def is_complete(folder: str | os.PathLike[str], parameters: ShapesParameters) -> bool:
    """Whether the folder holds the whole set of these parameters, with unchanged annotations."""
    folder = Path(folder)
    try:
        stamp = json.loads((folder / STAMP).read_text(encoding="utf-8"))
        texts = {s: (folder / "annotations" / f"{s}.json").read_bytes() for s in SPLITS}
        counts = {s: len(list_folder(str(folder / s))) for s in SPLITS}
    except (OSError, ValueError):
        return False
    digest = {s: hashlib.sha256(text).hexdigest()[:16] for s, text in texts.items()}
    return (
        stamp.get("fingerprint") == parameters.fingerprint()
        and stamp.get("annotations_sha256") == digest
        and counts == {"train": parameters.num_train, "val": parameters.num_val}
    )


def draw_image(rng: np.random.Generator, parameters: ShapesParameters) -> tuple[Image.Image, list[dict[str, Any]]]:
    """One image and its objects: ``{"category_id": 1-based, "bbox": [x, y, w, h] in pixels}``."""
    size = parameters.image_size
    image = Image.fromarray(_background(rng, size))
    owner = np.full((size, size), -1)  # index of the shape that is on top at each pixel
    areas: list[int] = []
    objects = []
    for _ in range(int(rng.integers(1, parameters.max_objects + 1))):
        kind = int(rng.integers(len(CLASS_NAMES)))
        outline = _place(rng, _OUTLINES[kind](), parameters)
        mask = _rasterise(outline, size)
        covered = np.asarray(mask) > 127
        hidden = [1 - ((owner == i) & ~covered).sum() / max(area, 1) for i, area in enumerate(areas)]
        if covered.sum() < 16 or any(h > MAX_HIDDEN for h in hidden):
            continue  # drawn from the same stream whether kept or not: no retries, a fixed cost per image
        owner[covered] = len(areas)
        areas.append(int(covered.sum()))
        behind = np.asarray(image)[covered].mean(0)
        image.paste(Image.fromarray(_fill(rng, size, behind)), mask=mask)
        low, high = outline.min(0).clip(0, size), outline.max(0).clip(0, size)
        bbox = [round(float(v), 2) for v in (*low, *(high - low))]
        objects.append({"category_id": kind + 1, "bbox": bbox})
    return image, objects


def _polygon(radii: list[float]) -> np.ndarray:
    """Corners at equal angles and the given radii, in the unit disk; first corner up."""
    angle = np.arange(len(radii)) * (2 * math.pi / len(radii)) - math.pi / 2
    return np.stack([np.cos(angle), np.sin(angle)], -1) * np.asarray(radii)[:, None]


def _cross() -> np.ndarray:
    arm = 0.34
    quarter = np.array([[arm, -1], [arm, -arm], [1, -arm]]) / math.hypot(1, arm)
    turn = np.array([[0, 1], [-1, 0]])  # by 90 degrees, for row vectors
    return np.concatenate([quarter @ np.linalg.matrix_power(turn, i) for i in range(4)])


_OUTLINES: tuple[Callable[[], np.ndarray], ...] = (
    partial(_polygon, [1.0] * 48),
    partial(_polygon, [1.0] * 4),
    partial(_polygon, [1.0] * 3),
    partial(_polygon, [1.0, 0.42] * 5),
    _cross,
)


def _place(rng: np.random.Generator, outline: np.ndarray, parameters: ShapesParameters) -> np.ndarray:
    """Random size, angle, stretch and position; the centre lies in the image, the rest may leave it."""
    size = parameters.image_size
    scale = math.exp(rng.uniform(math.log(parameters.min_scale), math.log(parameters.max_scale))) * size / 2
    angle, stretch = rng.uniform(-MAX_ANGLE, MAX_ANGLE), rng.uniform(0.8, 1.25)
    rotation = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    shape = outline @ rotation * scale * [math.sqrt(stretch), 1 / math.sqrt(stretch)]
    margin = min(scale / 2, size / 4)
    return shape + rng.uniform(margin, size - margin, size=2)


def _rasterise(outline: np.ndarray, size: int) -> Image.Image:
    """Anti-aliased coverage, mode "L"."""
    large = Image.new("L", (size * SUPERSAMPLING, size * SUPERSAMPLING))
    ImageDraw.Draw(large).polygon([tuple(p) for p in outline * SUPERSAMPLING], fill=255)
    return large.resize((size, size), Image.Resampling.BOX)


def _background(rng: np.random.Generator, size: int) -> np.ndarray:
    """A gradient between two colours, coarse and fine noise; uint8 (H, W, 3)."""
    angle = rng.uniform(0, 2 * math.pi)
    y, x = np.mgrid[0:size, 0:size] / size - 0.5
    ramp = (x * math.cos(angle) + y * math.sin(angle) + 0.75)[..., None] / 1.5
    first, second = rng.uniform(20, 235, size=(2, 3))
    coarse = rng.normal(0, 14, size=(9, 9)).astype(np.float32)
    clouds = np.asarray(Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC))
    fine = rng.normal(0, rng.uniform(4, 14), size=(size, size, 3))
    return (first * (1 - ramp) + second * ramp + clouds[..., None] + fine).clip(0, 255).astype(np.uint8)


def _fill(rng: np.random.Generator, size: int, behind: np.ndarray) -> np.ndarray:
    """A colour that stands out from the mean colour ``behind`` it, with a little noise; uint8 (H, W, 3)."""
    candidates = rng.uniform(0, 255, size=(4, 3))
    colour = candidates[np.linalg.norm(candidates - behind, axis=1).argmax()]
    return (colour + rng.normal(0, 8, size=(size, size, 1))).clip(0, 255).astype(np.uint8)


def _draw_to_file(index: int, *, parameters: ShapesParameters, split: int, folder: Path) -> list[dict[str, Any]]:
    image, objects = draw_image(np.random.default_rng([parameters.seed, split, index]), parameters)
    image.save(folder / f"{index:06d}.jpg", quality=92)
    return objects


def _map(draw: Callable[[int], list[dict]], count: int, num_workers: int) -> list[list[dict]]:
    if num_workers <= 1:
        return [draw(i) for i in range(count)]
    with ProcessPoolExecutor(num_workers) as pool:
        return list(pool.map(draw, range(count), chunksize=50))


def _coco(objects_per_image: list[list[dict]], size: int) -> dict[str, Any]:
    images, annotations = [], []
    for i, objects in enumerate(objects_per_image):
        images.append({"id": i + 1, "file_name": f"{i:06d}.jpg", "height": size, "width": size})
        for o in objects:
            area = round(o["bbox"][2] * o["bbox"][3], 2)
            annotations.append({"id": len(annotations) + 1, "image_id": i + 1, "iscrowd": 0, "area": area, **o})
    categories = [{"id": i + 1, "name": name} for i, name in enumerate(CLASS_NAMES)]
    return {"images": images, "annotations": annotations, "categories": categories}


def _clear(folder: Path) -> None:
    """Remove an earlier set, complete or interrupted, and nothing else."""
    own = {STAMP, "annotations", *SPLITS}
    foreign = [name for name in list_folder(str(folder)) if name not in own]
    if foreign:
        raise FileExistsError(f"{folder} holds other files ({', '.join(foreign[:5])}); choose another folder")
    (folder / STAMP).unlink(missing_ok=True)
    for name in ("annotations", *SPLITS):
        if (folder / name).exists():
            shutil.rmtree(folder / name)
