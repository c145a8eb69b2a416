"""COCO's average precision (https://cocodataset.org/#detection-eval), by pycocotools or by a faster equal.

Shape legend: T IoU thresholds, R recall thresholds, K classes, A area ranges, M limits of detections per image.
"""

import contextlib
import functools
import io
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

logger = logging.getLogger(__name__)

_AREAS = ("all", "small", "medium", "large")


@dataclass(frozen=True)
class CocoMetrics:
    """Precision and recall of one evaluation; -1 where undefined.

    Attributes:
        precision_TRKAM, recall_TKAM: as ``COCOeval.eval``.
        iou_thresholds: (T,).
        max_dets: M rising limits of detections per image and class.
        limit: the one of them that precision is reported at.
    """

    precision_TRKAM: np.ndarray
    recall_TKAM: np.ndarray
    iou_thresholds: np.ndarray
    max_dets: Sequence[int]
    limit: int

    def mean(self, metric: str, iou: float | None = None, area: str = "all", limit: int | None = None) -> float:
        """Mean of "precision" or "recall" over all defined entries, in [0, 1]; -1 if there is none.

        Args:
            metric: which.
            iou: one IoU threshold; default all.
            area: "all", "small" (below 32^2 pixels), "medium" or "large" (from 96^2).
            limit: of ``max_dets``; default ``self.limit``.
        """
        values = self.precision_TRKAM if metric == "precision" else self.recall_TKAM
        if iou is not None:
            values = values[np.isclose(self.iou_thresholds, iou)]
        values = values[..., _AREAS.index(area), self.max_dets.index(self.limit if limit is None else limit)]
        values = values[values > -1]
        return float(np.mean(values)) if values.size else -1.0

    def summary(self) -> dict[str, float]:
        """AP, AP50, AP75, APs, APm and APl, in percent; NaN where undefined."""
        queries = {"AP": {}, "AP50": {"iou": 0.5}, "AP75": {"iou": 0.75}}
        queries |= {f"AP{area[0]}": {"area": area} for area in _AREAS[1:]}
        return {name: _percent(self.mean("precision", **query)) for name, query in queries.items()}

    def per_class(self) -> list[float]:
        """AP of every class in percent, over all areas; NaN where undefined."""
        parts = np.moveaxis(self.precision_TRKAM[..., 0, self.max_dets.index(self.limit)], -1, 0)
        return [float(np.mean(p[p > -1]) * 100) if (p > -1).any() else float("nan") for p in parts]

    def table(self) -> str:
        """COCO's twelve lines."""
        rows: list[tuple[str, dict[str, Any]]] = [("precision", {}), ("precision", {"iou": 0.5})]
        rows += [("precision", {"iou": 0.75})] + [("precision", {"area": area}) for area in _AREAS[1:]]
        rows += [("recall", {"limit": limit}) for limit in self.max_dets]
        rows += [("recall", {"area": area}) for area in _AREAS[1:]]
        first, last = self.iou_thresholds[[0, -1]]
        lines = []
        for metric, query in rows:
            name = "Average Precision  (AP)" if metric == "precision" else "Average Recall     (AR)"
            iou = f"{query['iou']:.2f}" if "iou" in query else f"{first:.2f}:{last:.2f}"
            limit, area = query.get("limit", self.limit), query.get("area", "all")
            value = self.mean(metric, **query)
            lines.append(f" {name} @[ IoU={iou:<9} | area={area:>6} | maxDets={limit:>3} ] = {value:0.3f}")
        return "\n".join(lines)


def _percent(value: float) -> float:
    return value * 100 if value >= 0 else float("nan")


def evaluate_detections(
    ground_truth: Any,
    detections: list[dict],
    iou_type: str,
    *,
    max_dets: int = 100,
    img_ids: Sequence[int] | None = None,
    use_fast_impl: bool = True,
) -> CocoMetrics:
    """Evaluate detections in COCO's result format.

    Args:
        ground_truth: ``pycocotools.coco.COCO``.
        detections: not empty; left as they are.
        iou_type: "bbox" or "segm".
        max_dets: how many detections per image and class count.
        img_ids: evaluate these images only.
        use_fast_impl: use hotcoco if it is installed and agrees with pycocotools.
    """
    fast = use_fast_impl and _hotcoco_agrees()
    logger.info(f"Evaluating {iou_type} with {'hotcoco' if fast else 'pycocotools'} ...")
    return _run(ground_truth, detections, iou_type, max_dets, img_ids, fast)


def _run(
    ground_truth: Any, detections: list[dict], iou_type: str, max_dets: int, img_ids: Sequence[int] | None, fast: bool
) -> CocoMetrics:
    keys = {"image_id", "category_id", "score", "segmentation" if iou_type == "segm" else "bbox"}
    # copies, because loadRes writes into what it gets; without "bbox" it takes areas from the masks
    results = [{key: value for key, value in d.items() if key in keys} for d in detections]
    if fast:
        import hotcoco

        ground_truth, evaluation = hotcoco.COCO(ground_truth.dataset), hotcoco.COCOeval
    else:
        from pycocotools.cocoeval import COCOeval as evaluation

    with contextlib.redirect_stdout(io.StringIO()):
        run = evaluation(ground_truth, ground_truth.loadRes(results), iou_type)
        run.params.maxDets = limits = sorted({1, 10, max_dets})  # COCO also reports recall at 1 and 10
        if img_ids is not None:
            run.params.imgIds = list(img_ids)
        run.evaluate()
        run.accumulate()
    precision, recall = np.asarray(run.eval["precision"]), np.asarray(run.eval["recall"])
    return CocoMetrics(precision, recall, np.asarray(run.params.iouThrs), limits, max_dets)


@functools.lru_cache(maxsize=1)
def _hotcoco_agrees() -> bool:
    """Whether hotcoco is installed and gives pycocotools' numbers, to the last bit, on a generated problem."""
    try:
        import hotcoco  # noqa: F401
    except ImportError:
        return False
    ground_truth, detections = _self_test_problem()
    for iou_type in ("bbox", "segm"):
        reference = _run(ground_truth, detections, iou_type, 4, None, fast=False)
        try:
            result = _run(ground_truth, detections, iou_type, 4, None, fast=True)
            np.testing.assert_array_equal(result.precision_TRKAM, reference.precision_TRKAM)
            np.testing.assert_array_equal(result.recall_TKAM, reference.recall_TKAM)
        except Exception as e:  # whatever it is, the reference can do without
            logger.warning(f"hotcoco fails, or disagrees with pycocotools, on {iou_type}; using pycocotools. {e!r}")
            return False
    return True


def _self_test_problem() -> tuple[Any, list[dict]]:
    """Objects of all sizes, crowds, tied scores, misses, false positives and images without objects."""
    import pycocotools.mask as coco_mask
    from pycocotools.coco import COCO

    rng = np.random.default_rng(0)

    def objects(number: int) -> Iterator[dict]:
        """On a coarse grid, so that many coincide or overlap."""
        for _ in range(number):
            x, y = (float(v) for v in 15 * rng.integers(0, 4, 2))
            w, h = (float(v) for v in rng.choice([10, 45, 120], 2))
            rle = coco_mask.frPyObjects([[x, y, x + w, y, x + w, y + h, x, y + h]], 240, 320)[0]
            yield {
                "image_id": int(rng.integers(2, 14)),
                "category_id": int(rng.choice([2, 5, 90])),
                "bbox": [x, y, w, h],
                "area": w * h,
                "segmentation": rle | {"counts": rle["counts"].decode("ascii")},
            }

    ground_truth = COCO()
    ground_truth.dataset = {
        "info": {},
        "images": [{"id": i, "height": 240, "width": 320, "file_name": f"{i}.jpg"} for i in range(16)],
        "annotations": [
            obj | {"id": i, "iscrowd": int(rng.random() < 0.15)} for i, obj in enumerate(objects(60), start=1)
        ],
        "categories": [{"id": i, "name": str(i)} for i in (2, 5, 90)],
    }
    with contextlib.redirect_stdout(io.StringIO()):
        ground_truth.createIndex()
    return ground_truth, [obj | {"score": round(rng.random(), 1)} for obj in objects(200)]
