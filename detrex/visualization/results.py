"""An evaluation's results as pictures. ``tools/visualize_results.py`` is a thin shell around :func:`main`."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.data.datasets import load_coco_json
from detectron2.structures import Boxes, BoxMode, pairwise_iou

from detrex.data import read_image
from detrex.inference.drawing import BoxLayer, comparison_grid

__all__ = ["ImageResult", "build_parser", "compare_with_truth", "draw_results", "main"]

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


def compare_with_truth(
    record: Mapping[str, Any], found: Sequence[Mapping[str, Any]], min_iou: float = 0.5
) -> ImageResult:
    """Count an image's mistakes.

    Args:
        record: of ``load_coco_json``, categories as in the file.
        found: entries of a COCO results file: "category_id", "bbox" (xywh), "score".
        min_iou: from which a detection counts as the object's.
    """
    objects = [a for a in record["annotations"] if not a.get("iscrowd", 0)]
    crowds = [a for a in record["annotations"] if a.get("iscrowd", 0)]
    found = sorted(found, key=lambda d: -d["score"])
    iou = pairwise_iou(Boxes(_corners(found)), Boxes(_corners(objects)))
    within_crowd = pairwise_iou(Boxes(_corners(found)), Boxes(_corners(crowds)))
    free, false = set(range(len(objects))), 0
    for row, detection in enumerate(found):
        same = [i for i in free if objects[i]["category_id"] == detection["category_id"]]
        best = max(same, key=lambda i: iou[row, i], default=None)
        if best is not None and iou[row, best] >= min_iou:
            free.remove(best)
        elif not any(
            crowd["category_id"] == detection["category_id"] and within_crowd[row, i] > 0
            for i, crowd in enumerate(crowds)
        ):
            false += 1
    return ImageResult(record["file_name"], len(objects), len(free), false)


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
        limit: draw only so many.

    Returns:
        The images drawn, in their order.

    Raises:
        ValueError: the results are not of this data set, or not in COCO's results format.
        OSError: a file that cannot be read.
    """
    records = {record["image_id"]: record for record in load_coco_json(str(annotations), str(image_root))}
    names = {c["id"]: c["name"] for c in json.loads(Path(annotations).read_text(encoding="utf-8"))["categories"]}
    found = _read_results(Path(results), records, names, threshold)
    compared = [(compare_with_truth(record, found[image_id]), image_id) for image_id, record in records.items()]
    if worst_first:
        compared.sort(key=lambda pair: -(pair[0].missed + pair[0].false))
    folder = Path(output)
    folder.mkdir(parents=True, exist_ok=True)
    drawn = compared[:limit]
    digits = len(str(len(drawn)))
    for rank, (result, image_id) in enumerate(drawn, 1):
        truth = _layer(records[image_id]["annotations"], names)
        mistakes = f"prediction (score >= {threshold:g}): {result.missed} missed, {result.false} false"
        pair = (read_image(result.file), truth, _layer(found[image_id], names))
        sheet = comparison_grid([pair], columns=1, width=WIDTH, titles=("ground truth", mistakes))
        sheet.save(folder / f"{rank:0{digits}d}_{Path(result.file).stem}.png")
    chosen = [result for result, _ in drawn]
    text = json.dumps([asdict(result) for result in chosen], indent=1)
    (folder / "summary.json").write_text(text + "\n", encoding="utf-8")
    return chosen


def _read_results(
    path: Path, records: Mapping[Any, Any], names: Mapping[int, str], threshold: float
) -> dict[Any, list[dict[str, Any]]]:
    """Image id -> detections with at least the score, best last, so that it is drawn on top."""
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
        kept = [e for e in entries if e["score"] >= threshold and len(e["bbox"]) == 4]
        strangers = {e["image_id"] for e in entries} - set(records)
        classes = {e["category_id"] for e in entries} - set(names)
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


def _corners(entries: Sequence[Mapping[str, Any]]) -> torch.Tensor:
    """(N, 4) xyxy."""
    boxes = [BoxMode.convert(list(e["bbox"]), BoxMode.XYWH_ABS, BoxMode.XYXY_ABS) for e in entries]
    return torch.tensor(boxes, dtype=torch.float64).reshape(-1, 4)


def _layer(entries: Sequence[Mapping[str, Any]], names: Mapping[int, str]) -> BoxLayer:
    labels = [names[e["category_id"]] + (f" {e['score']:.2f}" if "score" in e else "") for e in entries]
    return BoxLayer(np.asarray(_corners(entries)), labels, [e["category_id"] for e in entries])


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description="Draw an evaluation's detections beside the ground truth.")
    parser.add_argument("--results", required=True, metavar="JSON", help="coco_instances_results.json of an evaluation")
    parser.add_argument("--annotations", required=True, metavar="JSON", help="COCO json of the data set")
    parser.add_argument("--image-root", required=True, metavar="FOLDER", help="its images")
    parser.add_argument("--output", required=True, metavar="FOLDER", help="pictures and summary.json go here")
    parser.add_argument("--threshold", type=float, default=0.3, help="lowest score shown (%(default)s)")
    parser.add_argument("--worst", action="store_true", help="images with the most mistakes first")
    parser.add_argument("--limit", type=int, help="draw only so many")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: 0, or 2 for wrong input."""
    args = build_parser().parse_args(argv)
    try:
        drawn = draw_results(
            args.results,
            args.annotations,
            args.image_root,
            args.output,
            threshold=args.threshold,
            worst_first=args.worst,
            limit=args.limit,
        )
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    objects, missed, false = (sum(getattr(r, name) for r in drawn) for name in ("objects", "missed", "false"))
    print(f"{len(drawn)} images with {objects} objects, {missed} missed, {false} false detections: {args.output}")
    return 0
