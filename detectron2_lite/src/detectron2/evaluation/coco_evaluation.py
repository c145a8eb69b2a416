"""COCO average precision of detections."""

import contextlib
import copy
import io
import itertools
import json
import logging
import os
from collections import OrderedDict
from collections.abc import Sequence

import numpy as np
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets.coco import convert_to_coco_json
from detectron2.structures import BoxMode, Instances
from detectron2.utils import comm
from detectron2.utils.file_io import PathManager
from detectron2.utils.logger import _create_class_table, create_small_table

from ._coco_metrics import CocoMetrics, evaluate_detections
from .evaluator import DatasetEvaluator

_METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl")


class COCOEvaluator(DatasetEvaluator):
    """Average precision of boxes ("bbox") and masks ("segm") on a registered data set, in percent."""

    def __init__(
        self,
        dataset_name: str,
        tasks: Sequence[str] | None = None,
        distributed: bool = True,
        output_dir: str | None = None,
        *,
        max_dets_per_image: int | None = None,
        use_fast_impl: bool = True,
        kpt_oks_sigmas: Sequence[float] = (),
        allow_cached_coco: bool = True,
    ) -> None:
        """
        Args:
            dataset_name: registered; with ``json_file`` in its metadata, or it is converted to COCO format.
            tasks: of "bbox" and "segm"; default: what the predictions have.
            distributed: gather the predictions of all processes; otherwise evaluate this process's only.
            output_dir: receives ``instances_predictions.pth`` and ``coco_instances_results.json``, and the converted
                data set.
            max_dets_per_image: detections of a class that count in an image; default 100.
            use_fast_impl: use hotcoco where it is installed and gives pycocotools' numbers exactly.
            kpt_oks_sigmas: not in this subset.
            allow_cached_coco: reuse a data set converted before.

        Raises:
            NotImplementedError: the task "keypoints".
            ValueError: an unknown task, or a data set without ``json_file`` and no ``output_dir``.
        """
        from pycocotools.coco import COCO

        self._logger = logging.getLogger(__name__)
        if (tasks is not None and "keypoints" in tasks) or len(kpt_oks_sigmas):
            raise NotImplementedError("This subset of detectron2 does not evaluate keypoints")
        unknown = set(tasks or ()) - {"bbox", "segm"}
        if unknown:
            raise ValueError(f"Unknown tasks {sorted(unknown)}; COCOEvaluator knows 'bbox' and 'segm'")
        self._tasks = tasks
        self._distributed = distributed
        self._output_dir = output_dir
        self._use_fast_impl = use_fast_impl
        self._max_dets_per_image = 100 if max_dets_per_image is None else max_dets_per_image
        self._cpu_device = torch.device("cpu")
        self._predictions: list[dict] = []

        self._dataset_name = dataset_name
        self._metadata = MetadataCatalog.get(dataset_name)
        if not hasattr(self._metadata, "json_file"):
            if output_dir is None:
                raise ValueError(f"Data set {dataset_name!r} is not in COCO format: converting it needs an output_dir")
            cache = os.path.join(output_dir, f"{dataset_name}_coco_format.json")
            convert_to_coco_json(dataset_name, cache, allow_cached=allow_cached_coco)
            self._metadata.json_file = cache
        with contextlib.redirect_stdout(io.StringIO()):
            self._coco_api = COCO(PathManager.get_local_path(str(self._metadata.json_file)))
        self._do_evaluation = "annotations" in self._coco_api.dataset  # test sets have none

    def reset(self) -> None:
        self._predictions = []

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        """Collect a batch.

        Args:
            inputs: dicts with "image_id".
            outputs: dicts with "instances": ``pred_boxes`` xyxy in pixels of the original image, ``scores``,
                ``pred_classes`` contiguous from 0, perhaps ``pred_masks`` (N, H, W).
        """
        for input_, output in zip(inputs, outputs, strict=False):
            if "instances" in output:
                image_id = input_["image_id"]
                instances = output["instances"].to(self._cpu_device)
                results = instances_to_coco_json(instances, image_id)
                self._predictions.append({"image_id": image_id, "instances": results})

    def evaluate(self, img_ids: Sequence[int] | None = None) -> dict:
        """Evaluate what was collected.

        Args:
            img_ids: restrict the evaluation to these images.

        Returns:
            ``{task: {"AP", "AP50", "AP75", "APs", "APm", "APl", "AP-<class>", ...}}``, NaN where undefined; {} on
            other processes than the main one, without predictions, or for a data set without annotations.

        Raises:
            AssertionError: a predicted class that the data set does not have.
        """
        predictions = self._predictions
        if self._distributed:
            comm.synchronize()
            predictions = list(itertools.chain(*comm.gather(predictions, dst=0)))
            if not comm.is_main_process():
                return {}
        if not predictions:
            self._logger.warning("COCOEvaluator has seen no image: nothing to evaluate")
            return {}
        if self._output_dir:
            PathManager.mkdirs(self._output_dir)
            with PathManager.open(os.path.join(self._output_dir, "instances_predictions.pth"), "wb") as f:
                torch.save(predictions, f)
        self._results = OrderedDict()
        self._eval_predictions(predictions, img_ids)
        return copy.deepcopy(self._results)

    def _eval_predictions(self, predictions: list[dict], img_ids: Sequence[int] | None) -> None:
        detections = self._to_dataset_ids([d for p in predictions for d in p["instances"]])
        if self._output_dir:
            path = os.path.join(self._output_dir, "coco_instances_results.json")
            self._logger.info(f"Saving results to {path}")
            with PathManager.open(path, "w") as f:
                json.dump(detections, f)
        if not self._do_evaluation:
            self._logger.info("The data set has no annotations: the results are written, not evaluated")
            return
        has_masks = any("segmentation" in d for d in detections)
        for task in sorted(self._tasks or (["bbox", "segm"] if has_masks else ["bbox"])):
            if not detections:
                self._logger.warning("The model detected nothing on any image")
                self._results[task] = dict.fromkeys(_METRICS, float("nan"))
                continue
            options = {"max_dets": self._max_dets_per_image, "use_fast_impl": self._use_fast_impl}
            metrics = evaluate_detections(self._coco_api, detections, task, img_ids=img_ids, **options)
            self._results[task] = self._derive_coco_results(metrics, task)

    def _to_dataset_ids(self, detections: list[dict]) -> list[dict]:
        """Copies of the detections with the category ids of the json file."""
        key = "thing_dataset_id_to_contiguous_id"
        if not hasattr(self._metadata, key) and self._dataset_name in DatasetCatalog:
            DatasetCatalog.get(self._dataset_name)  # COCO data sets learn their ids when they are read
        if hasattr(self._metadata, key):
            to_dataset = {new: old for old, new in getattr(self._metadata, key).items()}
            num_classes = len(to_dataset)
            assert sorted(to_dataset) == list(range(num_classes)), f"{key} is not contiguous: {to_dataset}"
            for category in {d["category_id"] for d in detections}:
                assert category in to_dataset, (
                    f"A prediction has class={category}, but data set {self._dataset_name!r} has {num_classes} "
                    f"classes; predicted classes should be in [0, {num_classes - 1}]"
                )
            return [d | {"category_id": to_dataset[d["category_id"]]} for d in detections]
        unknown = {d["category_id"] for d in detections} - set(self._coco_api.getCatIds())
        if unknown:
            self._logger.warning(
                f"Predicted classes {sorted(unknown)} are no category ids of {self._metadata.json_file} and count as "
                f"wrong; data set {self._dataset_name!r} has no {key} to map them"
            )
        return [dict(d) for d in detections]

    def _derive_coco_results(self, metrics: CocoMetrics, task: str) -> dict[str, float]:
        self._logger.info(f"COCO metrics of {task} (-1 where undefined):\n{metrics.table()}")
        results = metrics.summary()
        self._logger.info(f"Evaluation results for {task}: \n{create_small_table(results)}")
        if not np.isfinite(sum(results.values())):
            self._logger.info("NaN marks metrics without any object to measure them on")
        class_names = self._metadata.get("thing_classes")
        if class_names is None or len(class_names) <= 1:
            return results
        per_class = metrics.per_class()
        counts = f"{len(class_names)} class names, but {len(per_class)} categories in its json file"
        assert len(class_names) == len(per_class), f"Data set {self._dataset_name!r} has {counts}"
        self._logger.info(f"Per-category {task} AP: \n{_create_class_table(class_names, per_class, 'AP')}")
        return results | {f"AP-{name}": ap for name, ap in zip(class_names, per_class, strict=True)}


def instances_to_coco_json(instances: Instances, img_id: int) -> list[dict]:
    """Convert the detections of one image to COCO's result format, in the classes of the model.

    Args:
        instances: on the CPU; ``pred_boxes``, ``scores``, ``pred_classes``, perhaps ``pred_masks`` (N, H, W).
        img_id: the image's id.

    Returns:
        Dicts with "image_id", "category_id", "bbox" (XYWH), "score" and perhaps "segmentation" (RLE).
    """
    if len(instances) == 0:
        return []
    boxes = BoxMode.convert(instances.pred_boxes.tensor.numpy(), BoxMode.XYXY_ABS, BoxMode.XYWH_ABS).tolist()
    columns = zip(boxes, instances.scores.tolist(), instances.pred_classes.tolist(), strict=True)
    results = [
        {"image_id": img_id, "category_id": category, "bbox": box, "score": score} for box, score, category in columns
    ]
    if instances.has("pred_masks"):
        import pycocotools.mask as coco_mask

        for result, mask in zip(results, instances.pred_masks, strict=True):
            rle = coco_mask.encode(np.asfortranarray(mask.numpy().astype(np.uint8)))
            result["segmentation"] = rle | {"counts": rle["counts"].decode("ascii")}
    return results
