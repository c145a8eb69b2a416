"""An evaluation's results as pictures: detections beside the ground truth, with the mistakes of each image."""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from detrex.analysis.mistakes import Entry, match_image
from detrex.data import DatasetError, read_coco_json, read_image
from detrex.data.class_names import ids_by_name
from detrex.data.coco_metrics import BoxMetrics
from detrex.data.evaluation import METRICS
from detrex.inference.drawing import BoxLayer, comparison_grid
from detrex.utils.regular_files import open_regular

__all__ = ["ImageResult", "count_mistakes", "draw_results"]

WIDTH = 640  # of a picture in pixels


@dataclass(frozen=True)
class ImageResult:
    """One image's detections above a score, beside its objects.

    Attributes:
        file: path of the image.
        objects: how many there are, crowds left out.
        missed: objects without a detection of their class with an IoU of 0.5 or more.
        false: detections without such an object; each object counts for one detection, the best first.
    """

    file: str
    objects: int
    missed: int
    false: int


def count_mistakes(file: str, objects: Sequence[Entry], found: Sequence[Entry]) -> ImageResult:
    """Count an image's mistakes.

    Args:
        file: path of the image.
        objects: its annotations in a COCO json, crowds included.
        found: entries of a COCO results file: "category_id", "bbox" (xywh), "score".
    """
    matches = match_image(0, objects, sorted(found, key=lambda d: -d["score"]))
    right = sum(match.is_right for match in matches)
    count = sum(not o.get("iscrowd", 0) for o in objects)
    return ImageResult(file, count, count - right, sum(match.detection is not None for match in matches) - right)


def draw_results(
    results: str | os.PathLike[str],
    annotations: str | os.PathLike[str],
    image_root: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    threshold: float = 0.3,
    worst_first: bool = False,
    limit: int | None = None,
) -> list[ImageResult]:
    """Draw ground truth and detections side by side, one picture for each image, and write ``summary.json``.

    Args:
        results: COCO results file, such as an evaluation's ``coco_instances_results.json``.
        annotations: COCO json of the data set. image_root: folder of its images.
        output: folder; created if needed.
        threshold: lowest score shown and counted.
        worst_first: the images with the most mistakes first, instead of the data set's order.
        limit: draw at most N images.

    Returns:
        The images drawn, in their order.

    Raises:
        ValueError: the results are not of this data set, or not in COCO's results format.
        OSError: a file that cannot be read.
    """
    data = read_coco_json(annotations, image_root, limit=os.fspath(image_root))
    names = dict(zip(data.category_ids, data.class_names, strict=True))
    files = {record["image_id"]: record["file_name"] for record in data.records}
    objects = {
        record["image_id"]: [{**a, "category_id": data.category_ids[a["category_id"]]} for a in record["annotations"]]
        for record in data.records
    }
    found = _read_results(Path(results), files, names, threshold)
    compared = [
        (count_mistakes(file, objects[image_id], found[image_id]), image_id) for image_id, file in files.items()
    ]
    if worst_first:
        compared.sort(key=lambda pair: -(pair[0].missed + pair[0].false))
    folder = Path(output)
    folder.mkdir(parents=True, exist_ok=True)
    drawn = compared[:limit]
    digits = len(str(len(drawn)))
    for rank, (result, image_id) in enumerate(drawn, 1):
        truth = _layer(objects[image_id], names)
        mistakes = f"prediction (score >= {threshold:g}): {result.missed} missed, {result.false} false"
        pair = (read_image(result.file), truth, _layer(found[image_id], names))
        sheet = comparison_grid([pair], columns=1, width=WIDTH, titles=("ground truth", mistakes))
        sheet.save(folder / f"{rank:0{digits}d}_{Path(result.file).stem}.png")
    chosen = [result for result, _ in drawn]
    text = json.dumps([asdict(result) for result in chosen], indent=1)
    (folder / "summary.json").write_text(text + "\n", encoding="utf-8")
    return chosen


def _read_results(
    path: Path, images: Mapping[Any, Any], names: Mapping[int, str], threshold: float
) -> dict[Any, list[dict[str, Any]]]:
    """Image id -> detections with at least the score, best last, so that it is drawn on top."""
    try:
        with open_regular(path, "r") as file:
            entries = _matched_by_name(json.load(file), path.with_name(METRICS), names)
        kept = [e for e in entries if e["score"] >= threshold and len(e["bbox"]) == 4]
        strangers = {e["image_id"] for e in entries} - set(images)
        classes = {e["category_id"] for e in entries} - set(names)
    except DatasetError:
        raise
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} is not a COCO results file, a list of image_id, category_id, bbox and score: {error!r}"
        ) from error
    for what, unknown in (("images", strangers), ("categories", classes)):
        if unknown:
            raise ValueError(f"{path} has {what} that the annotations lack, such as {min(unknown)}: another data set?")
    found: dict[Any, list[dict[str, Any]]] = defaultdict(list)
    for entry in sorted(kept, key=lambda e: e["score"]):
        found[entry["image_id"]].append(entry)
    return found


def _matched_by_name(entries: Sequence[Entry], metrics: Path, names: Mapping[int, str]) -> Sequence[Entry]:
    """The results under the category ids of the annotations, by the class names of the evaluation beside them."""
    if not metrics.is_file():
        return entries
    evaluated = BoxMetrics.load(metrics)
    then = dict(zip(evaluated.category_ids, evaluated.class_names, strict=True))
    new_id = ids_by_name(then, names, source=str(metrics))
    return [{**entry, "category_id": new_id[entry["category_id"]]} for entry in entries]


def _layer(entries: Sequence[Entry], names: Mapping[int, str]) -> BoxLayer:
    labels = [names[e["category_id"]] + (f" {e['score']:.2f}" if "score" in e else "") for e in entries]
    boxes = np.array([e["bbox"] for e in entries], dtype=float).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    return BoxLayer(boxes, labels, [e["category_id"] for e in entries])
