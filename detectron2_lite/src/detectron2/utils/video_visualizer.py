"""Drawing of detections in videos: an object keeps its colour from frame to frame."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from detectron2.structures import Instances

from .colormap import random_color, random_colors
from .visualizer import ColorMode, VisImage, Visualizer

_MIN_IOU = {"bbox": 0.6, "mask_rle": 0.5}  # to count as the same object
_FRAMES_TO_LIVE = 8


@dataclass(slots=True, eq=False)
class _DetectedInstance:
    """An object of a frame, whose colour may pass to a later one.

    Attributes:
        label: class.
        bbox: (x0, y0, x1, y1) or None.
        mask_rle: COCO RLE or None.
        color: RGB in [0, 1], None until assigned.
        ttl: frames for which it is remembered without being detected.
    """

    label: int
    bbox: Any
    mask_rle: dict | None
    color: Any
    ttl: int


class VideoVisualizer:
    """Draws frame after frame. Objects are told apart by ``predictions.ID`` or, without, by overlap of like classes."""

    def __init__(self, metadata: Any, instance_mode: ColorMode = ColorMode.IMAGE) -> None:
        """
        Args:
            metadata: see ``Visualizer``; ``max_num_instances`` (default 74) bounds the number of IDs at a time,
                ``period_threshold`` hides objects with a lower ``predictions.ID_period``.
            instance_mode: IMAGE or IMAGE_BW.
        """
        assert instance_mode in (ColorMode.IMAGE, ColorMode.IMAGE_BW), f"{instance_mode} is not for videos"
        self.metadata = metadata
        self._instance_mode = instance_mode
        self._old_instances: list[_DetectedInstance] = []
        self._color_pool = random_colors(metadata.get("max_num_instances", 74), rgb=True, maximum=1)
        self._free_colors = set(range(len(self._color_pool)))
        self._assigned_colors: dict[Any, int] = {}

    def draw_instance_predictions(self, frame: np.ndarray, predictions: Instances) -> VisImage:
        """Draw the detections of the next frame.

        Args:
            frame: RGB (H, W, 3) in [0, 255].
            predictions: on the CPU; ``pred_boxes`` or ``pred_masks`` (then boxes are not drawn), and of ``scores``,
                ``pred_classes``, ``pred_keypoints``, ``ID``, ``COLOR`` and ``ID_period`` what there is.
        """
        visualizer = Visualizer(frame, self.metadata, instance_mode=self._instance_mode)
        if len(predictions) == 0:
            return visualizer.output
        colors = self._colors(predictions)
        if predictions.has("ID_period"):
            threshold = self.metadata.get("period_threshold", 0)
            visible = [i for i, period in enumerate(predictions.ID_period) if period > threshold]
            predictions, colors = predictions[np.array(visible, dtype=int)], [colors[i] for i in visible]

        fields = dict(predictions.get_fields())
        if "pred_masks" in fields:
            fields.pop("pred_boxes", None)
        return visualizer._draw_fields(fields, colors, alpha=0.5)

    def _colors(self, predictions: Instances) -> Sequence[Any]:
        if predictions.has("COLOR"):
            return predictions.COLOR
        if predictions.has("ID"):
            return self._assign_colors_by_id(predictions)
        objects = zip(predictions.pred_classes.tolist(), predictions.pred_boxes.tensor.tolist(), strict=True)
        found = [_DetectedInstance(label, box, None, None, _FRAMES_TO_LIVE) for label, box in objects]
        return self._assign_colors(found)

    def _assign_colors(self, instances: list[_DetectedInstance]) -> list[Any]:
        """Give every object the colour of the old one of its class that it overlaps most, or a new one."""
        remembered = []
        for old, ious in zip(self._old_instances, self._pairwise_iou(instances), strict=True):
            best = int(np.argmax(ious))
            kind = "mask_rle" if instances[best].bbox is None else "bbox"
            if ious[best] > _MIN_IOU[kind] and instances[best].color is None:
                instances[best].color = old.color
                continue
            old.ttl -= 1
            if old.ttl > 0:
                remembered.append(old)
        for instance in instances:
            if instance.color is None:
                instance.color = random_color(rgb=True, maximum=1)
        self._old_instances = instances + remembered
        return [instance.color for instance in instances]

    def _pairwise_iou(self, instances: list[_DetectedInstance]) -> np.ndarray:
        """(old, new), 0 between different classes."""
        import pycocotools.mask as coco_mask

        if not self._old_instances:
            return np.zeros((0, len(instances)))
        crowd = [0] * len(instances)
        if instances[0].bbox is None:
            old, new = ([x.mask_rle for x in group] for group in (self._old_instances, instances))
        else:
            old, new = (np.array([_to_xywh(x.bbox) for x in group]) for group in (self._old_instances, instances))
        same_class = np.array([[a.label == b.label for b in instances] for a in self._old_instances])
        return np.asarray(coco_mask.iou(old, new, crowd)) * same_class

    def _assign_colors_by_id(self, instances: Instances) -> list[Any]:
        ids = [getattr(i, "item", lambda i=i: i)() for i in instances.ID]
        for gone in set(self._assigned_colors) - set(ids):
            self._free_colors.add(self._assigned_colors.pop(gone))
        for new in ids:
            if new not in self._assigned_colors:
                assert self._free_colors, f"More than {len(self._color_pool)} IDs at a time; set max_num_instances"
                self._assigned_colors[new] = self._free_colors.pop()
        return [self._color_pool[self._assigned_colors[i]] for i in ids]


def _to_xywh(box: Sequence[float]) -> list[float]:
    x0, y0, x1, y1 = box
    return [x0, y0, x1 - x0, y1 - y0]
