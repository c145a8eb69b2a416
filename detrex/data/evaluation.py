"""The evaluator of boxes: COCO's average precision on any registered data set, the same on both hosts."""

from __future__ import annotations

import contextlib
import itertools
import logging
import math
import os
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets.coco import convert_to_coco_dict
from detectron2.evaluation import DatasetEvaluator
from detectron2.structures import BoxMode
from detectron2.utils import comm
from detectron2.utils.file_io import PathManager
from detectron2.utils.logger import create_small_table

from detrex.data.formats.coco_json import coco_content, crowd_flag, load_content, write_json
from detrex.utils.text import printable

from .class_names import known_classes
from .coco_metrics import COCO_MAX_DETS, SUMMARY, BoxMetrics, evaluate_boxes, sorted_positions

logger = logging.getLogger(__name__)

RESULTS = "coco_instances_results.json"
METRICS = "coco_instances_metrics.npz"


class BoxEvaluator(DatasetEvaluator):
    """Average precision of boxes in percent; see :func:`build_coco_evaluator`."""

    def __init__(
        self, dataset_name: str, *, output_dir: str | None, max_dets_per_image: int | None, use_fast_impl: bool
    ) -> None:
        self.max_dets = COCO_MAX_DETS if max_dets_per_image is None else max_dets_per_image
        if self.max_dets < 1:
            raise ValueError(f"dataloader.evaluator.max_dets_per_image={max_dets_per_image}: give 1 or more")
        self._name, self._output_dir, self._use_fast_impl = dataset_name, output_dir, use_fast_impl
        self._content = ground_truth(dataset_name)
        self._images, classes = (sorted_positions(self._content[key]) for key in ("images", "categories"))
        metadata = MetadataCatalog.get(dataset_name)
        to_model = metadata.get("thing_dataset_id_to_contiguous_id")
        if to_model is None:  # the model's classes are the data set's own ids
            to_model = {category_id: category_id for category_id in classes}
        self._position_of_class = {to_model[i]: position for i, position in classes.items() if i in to_model}
        self._class_names = tuple(metadata.get("thing_classes") or ())
        self.reset()

    def reset(self) -> None:
        self._found: dict[Any, np.ndarray] = {}

    def process(self, inputs: Sequence[dict[str, Any]], outputs: Sequence[dict[str, Any]]) -> None:
        """Collect a batch.

        Args:
            inputs: with "image_id".
            outputs: "instances" with ``pred_boxes`` (xyxy in pixels of the original image), ``scores`` and
                ``pred_classes`` (contiguous from 0).
        """
        for record, output in zip(inputs, outputs, strict=True):
            instances = output["instances"]
            boxes = BoxMode.convert(instances.pred_boxes.tensor.cpu(), BoxMode.XYXY_ABS, BoxMode.XYWH_ABS)
            columns = (boxes.numpy(), instances.scores.cpu().numpy(), instances.pred_classes.cpu().numpy())
            self._found[record["image_id"]] = np.column_stack(columns).astype(np.float64)

    def evaluate(self) -> dict[str, dict[str, float]]:
        """Evaluate what all processes have collected.

        Returns:
            ``{"bbox": {"AP", "AP50", "AP75", "APs", "APm", "APl", "AP-<class>", ...}}``, NaN where undefined; {} on
            other processes than the main one, without predictions, or for a data set without annotations.

        Raises:
            ValueError: an image or class was predicted that the data set does not have.
        """
        comm.synchronize()
        gathered = comm.gather(self._found, dst=0)
        if not comm.is_main_process():
            return {}
        found = dict(itertools.chain.from_iterable(part.items() for part in gathered))
        if not found:
            logger.warning("The evaluator has seen no image: nothing to evaluate")
            return {}
        rows_N7 = self._rows(found)
        if self._output_dir:
            self._write(rows_N7)
        if "annotations" not in self._content:
            logger.info("%s has no annotations: the results are written, not evaluated", self._name)
            return {}
        self._warn_crowded(max(map(len, found.values())))
        options = {"max_dets": self.max_dets, "use_fast_impl": self._use_fast_impl}
        metrics = evaluate_boxes(self._content, rows_N7, **options)
        if self._output_dir:
            metrics.save(os.path.join(self._output_dir, METRICS))
        return {"bbox": self._report(metrics)}

    def _rows(self, found: dict[Any, np.ndarray]) -> np.ndarray:
        """What ``evaluate_boxes`` takes."""
        unknown = next((image_id for image_id in found if image_id not in self._images), None)
        if unknown is not None:
            raise ValueError(f"image {unknown} was evaluated, but {self._name} has no such image")
        parts = [np.empty((0, 7))]
        for image_id, rows in sorted(found.items()):
            parts.append(np.column_stack([np.full(len(rows), self._images[image_id]), rows]))
        rows_N7 = np.concatenate(parts)
        predicted, inverse = np.unique(rows_N7[:, 6].astype(np.int64), return_inverse=True)
        for class_id in predicted.tolist():
            if class_id not in self._position_of_class:
                raise ValueError(
                    f"class {class_id} was predicted, but {self._name} has {len(self._position_of_class)} classes: is "
                    "the checkpoint another data set's, or model.num_classes wrong?"
                )
        positions = np.array([self._position_of_class[class_id] for class_id in predicted.tolist()], dtype=np.float64)
        rows_N7[:, 6] = positions[inverse] if len(positions) else 0
        return rows_N7

    def _write(self, rows_N7: np.ndarray) -> None:
        """The detections in COCO's results format, under the data set's own ids; the metrics of others are removed."""
        images, classes = (sorted(item["id"] for item in self._content[key]) for key in ("images", "categories"))
        results = [
            {"image_id": images[int(image)], "category_id": classes[int(k)], "bbox": [x, y, w, h], "score": score}
            for image, x, y, w, h, score, k in rows_N7.tolist()
        ]
        with contextlib.suppress(FileNotFoundError):
            os.remove(os.path.join(self._output_dir, METRICS))
        write_json(results, os.path.join(self._output_dir, RESULTS))

    def _warn_crowded(self, most_found: int) -> None:
        objects = Counter(a["image_id"] for a in self._content["annotations"] if crowd_flag(a.get("iscrowd")) == 0)
        image_id, most = max(objects.items(), key=lambda item: item[1], default=(None, 0))
        where = f"{self._name}: up to {most} objects on an image (id {image_id})"
        if most > self.max_dets:
            logger.warning("%s, but %d detections of a class count; raise dataloader.evaluator.max_dets_per_image",
                           where, self.max_dets)  # fmt: skip
        if most > most_found:
            logger.warning("%s, but the model returned at most %d detections; its queries and model.num_select limit "
                           "them", where, most_found)  # fmt: skip

    def _report(self, metrics: BoxMetrics) -> dict[str, float]:
        results = metrics.summary()
        logger.info("AP and recall of boxes on %s, in percent, by %s, up to %d detections:\n%s\n%s",
                    self._name, metrics.backend, self.max_dets,
                    create_small_table(results), create_small_table(metrics.recalls()))  # fmt: skip
        if not all(map(math.isfinite, results.values())):
            logger.info("NaN marks metrics without any object to measure them on")
        if len(self._class_names) <= 1:
            return results
        classes = metrics.per_class()
        by_name = {
            printable(self._class_names[model_id]): classes[k].summary()["AP"]
            for model_id, k in self._position_of_class.items()
        }
        logger.info("AP per class: %s", ", ".join(f"{name} {ap:.2f}" for name, ap in by_name.items()))
        return results | {f"AP-{name}": ap for name, ap in by_name.items()}


def build_coco_evaluator(
    *,
    dataset_name: str,
    output_dir: str | None = None,
    max_dets_per_image: int | None = None,
    use_fast_impl: bool = True,
) -> BoxEvaluator:
    """Build an evaluator of boxes.

    detectron2's own learns a custom data set's category ids when its json is first read; built earlier, it maps nothing
    and reports AP 0 without a message. Here the data set is read first where that has not happened.

    Args:
        dataset_name: a name in the ``DatasetCatalog``.
        output_dir: where ``coco_instances_results.json`` (the detections) and ``coco_instances_metrics.npz``
            (:class:`BoxMetrics`) are written; None writes nothing.
        max_dets_per_image: detections per image and class that count; None is COCO's 100. A warning says when images
            hold more objects.
        use_fast_impl: hotcoco where it is installed; False is pycocotools, the reference. They agree to the last bit.

    Raises:
        KeyError: the name is not registered; the message lists those that are.
        ValueError: ``max_dets_per_image`` below 1.
    """
    if MetadataCatalog.get(dataset_name).get("thing_dataset_id_to_contiguous_id") is None:
        DatasetCatalog.get(dataset_name)
    return BoxEvaluator(
        dataset_name, output_dir=output_dir, max_dets_per_image=max_dets_per_image, use_fast_impl=use_fast_impl
    )


def metric_names(dataset_name: str) -> tuple[str, ...]:
    """Names under which an evaluation of a data set will be logged, known before it runs.

    Args:
        dataset_name: a registered name, after ``prepare_data``; ``dataloader.evaluator.dataset_name`` of a config.

    Returns:
        "bbox/AP", "bbox/AP50" and so on, and of more than one class "bbox/AP-<class>", characters escaped that cannot
        be shown. Metrics without objects to measure them on are not logged (NaN).
    """
    classes = known_classes(dataset_name)
    per_class = [f"AP-{printable(name)}" for name in classes] if len(classes) > 1 else []
    return tuple(f"bbox/{name}" for name in (*SUMMARY, *per_class))


def ground_truth(dataset_name: str) -> dict[str, Any]:
    """Images, annotations and categories of a registered data set in COCO's form; a test set has no "annotations".

    What ``register_coco_data`` was given is not read again; that of other data sets comes from their json, or is
    converted where they have none.

    Raises:
        DatasetError: its json is not there, or cannot be read.
    """
    metadata = MetadataCatalog.get(dataset_name)
    data, json_file = metadata.get("coco_data"), metadata.get("json_file")
    if data is not None:
        return coco_content(data)
    if json_file is None:
        return convert_to_coco_dict(dataset_name)
    return load_content(PathManager.get_local_path(os.fspath(json_file)), required=("images", "categories"))
