"""Average precision and recall of an evaluation, whole and per class (https://cocodataset.org/#detection-eval).

Shape legend: T IoU thresholds, R recall thresholds, K classes, A areas (all, small, medium, large), M limits of
detections per image.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pycocotools.cocoeval import COCOeval

from .run import MissingPart, ValidationData

__all__ = ["Accuracy", "ClassAccuracy", "measure", "recorded"]

AREAS = ("all", "small", "medium", "large")
SUMMARY = ("AP", "AP50", "AP75", "APs", "APm", "APl")


@dataclass(frozen=True)
class ClassAccuracy:
    """One class.

    Attributes:
        name: of the class.
        objects: how many the data set has, crowds left out; None where only the run's own record is known.
        values: "AP", "AP50", "AP75", "APs", "APm", "APl" and "AR" in percent; None where undefined.
        precision: IoU threshold ("0.50", "0.75", "mean") -> (R,) precision in [0, 1]; {} for a class without objects.
    """

    name: str
    objects: int | None
    values: Mapping[str, float | None]
    precision: Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Accuracy:
    """An evaluation.

    Attributes:
        summary: metric -> percent, None where undefined.
        recall: "AR@1" and so on, and "ARs", "ARm", "ARl" -> percent; {} where not known.
        classes: in the order of their ids.
        recall_R: the recalls at which precision is given.
        limit: detections per image that count.
        images: how many.
    """

    summary: Mapping[str, float | None]
    recall: Mapping[str, float | None]
    classes: tuple[ClassAccuracy, ...]
    recall_R: np.ndarray
    limit: int | None
    images: int | None


def measure(
    data: ValidationData, found: Mapping[int, Sequence[Mapping[str, Any]]], max_dets: int | None = None
) -> Accuracy:
    """Evaluate boxes with pycocotools.

    Args:
        data: the ground truth. found: image id -> detections in COCO's results format.
        max_dets: detections per image that count; None is COCO's 100.

    Raises:
        MissingPart: there is no detection at all.
    """
    entries = [dict(detection) for detections in found.values() for detection in detections]
    if not entries:
        raise MissingPart("the last evaluation has detected nothing")
    for entry in entries:
        entry.pop("segmentation", None)  # or areas would be taken from it
    with contextlib.redirect_stdout(io.StringIO()):
        run = COCOeval(data.coco, data.coco.loadRes(entries), "bbox")
        run.params.maxDets = sorted({1, 10, max_dets or 100})
        run.evaluate()
        run.accumulate()
    precision_TRKA, recall_TKAM = run.eval["precision"][..., -1], run.eval["recall"]
    classes = tuple(
        _class(data, category_id, precision_TRKA[:, :, k], recall_TKAM[:, k, 0, -1])
        for k, category_id in enumerate(run.params.catIds)
    )
    recall = {f"AR@{limit}": _percent(recall_TKAM[:, :, 0, m]) for m, limit in enumerate(run.params.maxDets)}
    recall |= {f"AR{area[0]}": _percent(recall_TKAM[:, :, a, -1]) for a, area in enumerate(AREAS) if a}
    return Accuracy(
        _precisions(precision_TRKA), recall, classes, run.params.recThrs, run.params.maxDets[-1], len(data.coco.imgs)
    )


def recorded(curves: Mapping[str, tuple[Sequence[int], Sequence[float]]]) -> Accuracy:
    """What ``metrics.json`` has kept of the last evaluation, for a machine without the data.

    Raises:
        MissingPart: nothing.
    """
    last = {name.removeprefix("bbox/"): values[-1] for name, (_, values) in curves.items() if name.startswith("bbox/")}
    if not last:
        raise MissingPart("the run has recorded no evaluation")
    classes = tuple(
        ClassAccuracy(name.removeprefix("AP-"), None, {"AP": value}, {})
        for name, value in last.items()
        if name.startswith("AP-")
    )
    return Accuracy({name: last.get(name) for name in SUMMARY}, {}, classes, np.empty(0), None, None)


def _class(data: ValidationData, category_id: int, precision_TRA: np.ndarray, recall_T: np.ndarray) -> ClassAccuracy:
    annotations = data.coco.loadAnns(data.coco.getAnnIds(catIds=[category_id]))
    objects = sum(not a.get("iscrowd", 0) for a in annotations)
    values = {**_precisions(precision_TRA[:, :, None]), "AR": _percent(recall_T)}
    precision = {}
    if (precision_TRA[..., 0] > -1).any():
        precision = {"0.50": precision_TRA[0, :, 0], "0.75": precision_TRA[5, :, 0]}
        precision["mean"] = precision_TRA[..., 0].mean(0)
    return ClassAccuracy(data.names[category_id], objects, values, precision)


def _precisions(precision_TRKA: np.ndarray) -> dict[str, float | None]:
    whole = precision_TRKA[..., 0]
    parts = {"AP": whole, "AP50": whole[0], "AP75": whole[5]}
    parts |= {f"AP{area[0]}": precision_TRKA[..., a] for a, area in enumerate(AREAS) if a}
    return {name: _percent(part) for name, part in parts.items()}


def _percent(values: np.ndarray) -> float | None:
    """Mean of the defined entries; pycocotools marks the others by -1."""
    defined = values[values > -1]
    return float(defined.mean() * 100) if defined.size else None
