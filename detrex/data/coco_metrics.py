"""COCO's average precision of boxes (https://cocodataset.org/#detection-eval), by hotcoco or by pycocotools.

Shape legend: T IoU thresholds, R recall thresholds, K classes, A areas, M limits of detections per image, N detections.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

COCO_MAX_DETS = 100
AREAS = ("all", "small", "medium", "large")  # limits at 32^2 and 96^2 pixels


@dataclass(frozen=True)
class BoxMetrics:
    """Precision and recall of an evaluation.

    Attributes:
        precision_TRKAM, recall_TKAM: as ``pycocotools.cocoeval.COCOeval.eval``, classes by ascending id; -1 where a
            class has no objects.
        max_dets: the M rising limits of detections per image and class; precision is reported at the last.
        backend: "hotcoco" or "pycocotools".
    """

    precision_TRKAM: np.ndarray
    recall_TKAM: np.ndarray
    max_dets: tuple[int, ...]
    backend: str

    def summary(self) -> dict[str, float]:
        """AP, AP50, AP75, APs, APm and APl in percent; NaN where undefined."""
        precision_TRKA = self.precision_TRKAM[..., -1]
        whole = precision_TRKA[..., 0]
        values = {"AP": _percent(whole), "AP50": _percent(whole[0]), "AP75": _percent(whole[5])}
        return values | {f"AP{AREAS[a][0]}": _percent(precision_TRKA[..., a]) for a in (1, 2, 3)}

    def recalls(self) -> dict[str, float]:
        """AR@1, AR@10 and so on for each limit, then ARs, ARm and ARl at the last, in percent; NaN where undefined."""
        values = {f"AR@{limit}": _percent(self.recall_TKAM[:, :, 0, m]) for m, limit in enumerate(self.max_dets)}
        return values | {f"AR{AREAS[a][0]}": _percent(self.recall_TKAM[:, :, a, -1]) for a in (1, 2, 3)}

    def per_class(self) -> list[float]:
        """AP of every class in percent, by ascending id; NaN where undefined."""
        return [_percent(precision_TR) for precision_TR in np.moveaxis(self.precision_TRKAM[:, :, :, 0, -1], 2, 0)]


def evaluate_boxes(
    ground_truth: Mapping[str, Sequence[Mapping[str, Any]]],
    detections_N7: np.ndarray,
    *,
    max_dets: int = COCO_MAX_DETS,
    use_fast_impl: bool = True,
) -> BoxMetrics:
    """Evaluate boxes.

    Both backends get images, classes and annotations under new ids, from 1 and in the order of the old ones: ids may
    be any integers, also an annotation's 0, which pycocotools takes for "unmatched".

    Args:
        ground_truth: content of a COCO json: "images", "annotations" and "categories".
        detections_N7: float64 (N, 7): position of the image among the ids in ascending order, x, y, width, height
            (pixels), score, position of the class likewise. Equal scores rank in this order.
        max_dets: detections per image and class that count, the best first.
        use_fast_impl: hotcoco, where it is installed; False is pycocotools. They agree to the last bit.
    """
    content = _renumbered(ground_truth)
    limits = tuple(sorted({limit for limit in (1, 10) if limit < max_dets} | {max_dets}))
    if not len(detections_N7):
        return _nothing_found(content, limits)
    fast = use_fast_impl and importlib.util.find_spec("hotcoco") is not None
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its progress
        if fast:
            import hotcoco

            truth, evaluation = hotcoco.COCO(content), hotcoco.COCOeval
        else:
            from pycocotools.coco import COCO
            from pycocotools.cocoeval import COCOeval as evaluation

            truth = COCO()
            truth.dataset = content
            truth.createIndex()
        run = evaluation(truth, truth.loadRes(detections_N7 + np.array([1, 0, 0, 0, 0, 0, 1.0])), "bbox")
        run.params.maxDets = list(limits)
        run.evaluate()
        run.accumulate()
    precision, recall = np.asarray(run.eval["precision"]), np.asarray(run.eval["recall"])
    return BoxMetrics(precision, recall, limits, "hotcoco" if fast else "pycocotools")


def sorted_positions(items: Sequence[Mapping[str, Any]]) -> dict[int, int]:
    """Id -> position among the ids in ascending order, of COCO images or categories."""
    return {item_id: i for i, item_id in enumerate(sorted(item["id"] for item in items))}


def _renumbered(content: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, Any]:
    images, classes = (sorted_positions(content[key]) for key in ("images", "categories"))
    return {
        "info": {},
        "images": [{"id": i + 1} for i in images.values()],
        "categories": [{"id": i + 1, "name": str(i + 1)} for i in classes.values()],
        "annotations": [
            {
                "id": number,
                "image_id": images[item["image_id"]] + 1,
                "category_id": classes[item["category_id"]] + 1,
                "bbox": item["bbox"],
                "area": item["area"] if "area" in item else item["bbox"][2] * item["bbox"][3],
                "iscrowd": item.get("iscrowd", 0),
            }
            for number, item in enumerate(content["annotations"], 1)
        ],
    }


def _nothing_found(content: Mapping[str, Any], limits: tuple[int, ...]) -> BoxMetrics:
    """What an evaluation without detections is: zero where there are objects. pycocotools fails on it."""
    shape = (10, len(content["categories"]), len(AREAS), len(limits))
    recall_TKAM = np.full(shape, -1.0)
    bounds = ((0, 1e10), (0, 32**2), (32**2, 96**2), (96**2, 1e10))
    for item in content["annotations"]:
        for a, (low, high) in enumerate(bounds):
            if not item["iscrowd"] and low <= item["area"] <= high:
                recall_TKAM[:, item["category_id"] - 1, a] = 0
    precision_TRKAM = np.repeat(recall_TKAM[:, None], 101, axis=1)
    return BoxMetrics(precision_TRKAM, recall_TKAM, limits, "none")


def _percent(values: np.ndarray) -> float:
    defined = values[values > -1]
    return float(defined.mean() * 100) if defined.size else float("nan")
