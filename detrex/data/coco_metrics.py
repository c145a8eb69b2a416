"""COCO's average precision of boxes (https://cocodataset.org/#detection-eval), by hotcoco or by pycocotools.

Shape legend: T IoU thresholds (0.50 to 0.95), R recall thresholds (0 to 1), K classes, A areas, M limits of detections
per image, N detections.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import io
import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from detrex.data.formats.coco_json import crowd_flag, is_area
from detrex.utils.regular_files import open_regular

COCO_MAX_DETS = 100
AREAS = ("all", "small", "medium", "large")  # limits at 32^2 and 96^2 pixels
SUMMARY = ("AP", "AP50", "AP75", "APs", "APm", "APl")
RECALLS_R = np.linspace(0, 1, 101)


@dataclass(frozen=True, eq=False)
class BoxMetrics:
    """Precision and recall of an evaluation.

    Attributes:
        precision_TRKA, recall_TKAM: as ``pycocotools.cocoeval.COCOeval.eval``, precision at the last limit; -1 where a
            class has no objects.
        max_dets: the M rising limits of detections per image and class.
        backend: "hotcoco" or "pycocotools"; "none" if nothing was detected.
        num_images: images of the data set.
        category_ids: of the K classes, ascending.
        class_names: likewise.
        num_objects: likewise, crowds left out.
    """

    precision_TRKA: np.ndarray
    recall_TKAM: np.ndarray
    max_dets: tuple[int, ...]
    backend: str
    num_images: int
    category_ids: tuple[int, ...]
    class_names: tuple[str, ...]
    num_objects: tuple[int, ...]

    def summary(self) -> dict[str, float]:
        """AP, AP50, AP75, APs, APm and APl in percent; NaN where undefined."""
        whole = self.precision_TRKA[..., 0]
        values = (whole, whole[0], whole[5], *(self.precision_TRKA[..., a] for a in (1, 2, 3)))
        return dict(zip(SUMMARY, map(_percent, values), strict=True))

    def recalls(self) -> dict[str, float]:
        """AR@1, AR@10 and so on for each limit, then ARs, ARm and ARl at the last, in percent; NaN where undefined."""
        values = {f"AR@{limit}": _percent(self.recall_TKAM[:, :, 0, m]) for m, limit in enumerate(self.max_dets)}
        return values | {f"AR{AREAS[a][0]}": _percent(self.recall_TKAM[:, :, a, -1]) for a in (1, 2, 3)}

    def curves(self) -> dict[str, np.ndarray]:
        """Precision in [0, 1] at ``RECALLS_R``, the mean over the classes that have objects.

        Returns:
            "0.50", "0.75" (IoU thresholds) and "mean" (over all thresholds) -> (R,); {} without any object.
        """
        precision_TRK = self.precision_TRKA[..., 0]
        precision_TRK = precision_TRK[:, :, (precision_TRK > -1).all((0, 1))]
        if not precision_TRK.shape[-1]:
            return {}
        precision_TR = precision_TRK.mean(-1)
        return {"0.50": precision_TR[0], "0.75": precision_TR[5], "mean": precision_TR.mean(0)}

    def per_class(self) -> list[BoxMetrics]:
        """The same of each class by itself, by ascending category id."""
        return [
            dataclasses.replace(
                self,
                precision_TRKA=self.precision_TRKA[:, :, k : k + 1],
                recall_TKAM=self.recall_TKAM[:, k : k + 1],
                **{key: getattr(self, key)[k : k + 1] for key in ("category_ids", "class_names", "num_objects")},
            )
            for k in range(len(self.category_ids))
        ]

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a file that ``load`` reads; it appears complete or not at all."""
        facts = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)[2:]}
        temporary = f"{os.fspath(path)}.{os.getpid()}.tmp"
        with open(temporary, "wb") as f:
            np.savez_compressed(
                f, precision_TRKA=self.precision_TRKA, recall_TKAM=self.recall_TKAM, facts=np.array(json.dumps(facts))
            )
        os.replace(temporary, path)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> BoxMetrics:
        """Read what ``save`` has written.

        Raises:
            OSError: there is no such regular file.
            ValueError: it is something else; the message names it.
        """
        with open_regular(path) as f:
            try:
                with np.load(f, allow_pickle=False) as arrays:
                    precision_TRKA, recall_TKAM = arrays["precision_TRKA"], arrays["recall_TKAM"]
                    facts = json.loads(str(arrays["facts"]))
                values = {key: tuple(value) if isinstance(value, list) else value for key, value in facts.items()}
                found = cls(precision_TRKA, recall_TKAM, **values)
                K, A, M = len(found.class_names), len(AREAS), len(found.max_dets)
                if (precision_TRKA.shape, recall_TKAM.shape) != ((10, 101, K, A), (10, K, A, M)):
                    raise ValueError(f"arrays of the shapes {precision_TRKA.shape} and {recall_TKAM.shape}")
            except Exception as e:  # numpy raises errors of many types on damaged files
                raise ValueError(f"{os.fspath(path)} holds no metrics of an evaluation: {e}. Evaluate again") from e
        return found


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
    categories = sorted(ground_truth["categories"], key=lambda item: item["id"])
    objects = Counter(item["category_id"] for item in content["annotations"] if not item["iscrowd"])
    limits = tuple(sorted({limit for limit in (1, 10) if limit < max_dets} | {max_dets}))
    facts = {
        "num_images": len(content["images"]),
        "category_ids": tuple(item["id"] for item in categories),
        "class_names": tuple(str(item.get("name", item["id"])) for item in categories),
        "num_objects": tuple(objects[k + 1] for k in range(len(categories))),
    }
    if not len(detections_N7):
        precision, recall = _nothing_found(content, len(limits))
        return BoxMetrics(precision, recall, limits, "none", **facts)
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
    return BoxMetrics(precision[..., -1], recall, limits, "hotcoco" if fast else "pycocotools", **facts)


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
                "area": _area(item),
                "iscrowd": int(crowd_flag(item.get("iscrowd")) != 0),
            }
            for number, item in enumerate(content["annotations"], 1)
        ],
    }


def _area(annotation: Mapping[str, Any]) -> float:
    """The stated area; that of the box where none is stated, or one that would take the object out of every range."""
    stated = annotation.get("area")
    return stated if is_area(stated) else annotation["bbox"][2] * annotation["bbox"][3]


def _nothing_found(content: Mapping[str, Any], num_limits: int) -> tuple[np.ndarray, np.ndarray]:
    """Precision and recall without detections: zero where there are objects. pycocotools fails on it."""
    recall_TKAM = np.full((10, len(content["categories"]), len(AREAS), num_limits), -1.0)
    bounds = ((0, 1e10), (0, 32**2), (32**2, 96**2), (96**2, 1e10))
    for item in content["annotations"]:
        for a, (low, high) in enumerate(bounds):
            if not item["iscrowd"] and low <= item["area"] <= high:
                recall_TKAM[:, item["category_id"] - 1, a] = 0
    return np.repeat(recall_TKAM[:, None, ..., -1], 101, axis=1), recall_TKAM


def _percent(values: np.ndarray) -> float:
    defined = values[values > -1]
    return float(defined.mean() * 100) if defined.size else float("nan")
