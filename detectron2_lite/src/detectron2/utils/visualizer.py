"""Drawing of detections and annotations."""

from collections.abc import Mapping, Sequence
from enum import Enum, unique
from typing import Any

import numpy as np
import torch
from detectron2.data import MetadataCatalog
from detectron2.data.detection_utils import read_image
from detectron2.structures import BitMasks, Boxes, BoxMode, Instances, PolygonMasks

from ._canvas import DrawingPrimitives, VisImage, change_brightness
from ._generic_mask import GenericMask
from .colormap import random_color

_SMALL_OBJECT_AREA = 1000  # pixels; labels of smaller objects go beside them
_KEYPOINT_THRESHOLD = 0.05
_OFF_WHITE = (1.0, 1.0, 240.0 / 255)


@unique
class ColorMode(Enum):
    """How objects are coloured."""

    IMAGE = 0  # every object in a random colour, translucent
    SEGMENTATION = 1  # by class (metadata.thing_colors), nearly opaque
    IMAGE_BW = 2  # as IMAGE, on an image that is grey outside the masks


def _create_text_labels(
    classes: Sequence[int] | None,
    scores: Sequence[float] | None,
    class_names: Sequence[str] | None,
    is_crowd: Sequence[bool] | None = None,
) -> list[str] | None:
    """Labels such as "person 97%" or "7|crowd" of what is given; None without classes and scores."""
    columns = []
    if classes is not None:
        columns.append([class_names[c] if class_names else str(c) for c in classes])
    if scores is not None:
        columns.append([f"{score * 100:.0f}%" for score in scores])
    if not columns:
        return None
    labels = [" ".join(parts) for parts in zip(*columns, strict=False)]
    if is_crowd is not None:
        labels = [label + "|crowd" * bool(crowd) for label, crowd in zip(labels, is_crowd, strict=False)]
    return labels


class Visualizer(DrawingPrimitives):
    """Draws on one image. Primitives are ``draw_{text,box,line,circle,polygon,binary_mask}``; all return the canvas.

    The style of the composite methods may change.
    """

    def __init__(
        self,
        img_rgb: np.ndarray,
        metadata: Any = None,
        scale: float = 1.0,
        instance_mode: ColorMode = ColorMode.IMAGE,
        font_size_scale: float = 1.0,
    ) -> None:
        """
        Args:
            img_rgb: (H, W, 3) in [0, 255].
            metadata: ``Metadata`` with names and colours of the classes.
            scale: output pixels per image pixel.
            instance_mode: see :class:`ColorMode`.
            font_size_scale: factor on the size of text.
        """
        self.img = np.asarray(img_rgb).clip(0, 255).astype(np.uint8)
        self.metadata = MetadataCatalog.get("__nonexist__") if metadata is None else metadata
        super().__init__(VisImage(self.img, scale=scale), font_size_scale)
        self.cpu_device = torch.device("cpu")
        self.keypoint_threshold = _KEYPOINT_THRESHOLD
        self._instance_mode = instance_mode

    def draw_instance_predictions(self, predictions: Instances, jittering: bool = True) -> VisImage:
        """Draw detections.

        Args:
            predictions: on the CPU; of ``pred_boxes``, ``scores``, ``pred_classes``, ``pred_masks`` (N, H, W) and
                ``pred_keypoints`` what there is.
            jittering: vary the colour of a class from object to object (mode SEGMENTATION).
        """
        colors = None
        if predictions.has("pred_classes"):
            colors = self._class_colors(predictions.pred_classes.tolist(), jittering)
        return self._draw_fields(predictions.get_fields(), colors, alpha=0.5 if colors is None else 0.8)

    def _draw_fields(self, fields: Mapping[str, Any], colors: Sequence[Any] | None, alpha: float) -> VisImage:
        classes = fields["pred_classes"].tolist() if "pred_classes" in fields else None
        masks = [np.asarray(mask) for mask in fields["pred_masks"]] if "pred_masks" in fields else None
        if self._instance_mode == ColorMode.IMAGE_BW:
            self.output.reset_image(self._create_grayscale_image(None if masks is None else np.any(masks, axis=0)))
            alpha = 0.3
        return self.overlay_instances(
            masks=masks,
            boxes=fields.get("pred_boxes"),
            labels=_create_text_labels(classes, fields.get("scores"), self.metadata.get("thing_classes")),
            keypoints=fields.get("pred_keypoints"),
            assigned_colors=colors,
            alpha=alpha,
        )

    def draw_sem_seg(
        self,
        sem_seg: np.ndarray | torch.Tensor,
        area_threshold: float | None = None,
        alpha: float = 0.8,
        draw_text: bool = True,
        edge_color: Any = _OFF_WHITE,
    ) -> VisImage:
        """Draw a label image (H, W) in ``metadata.stuff_classes`` and ``stuff_colors``, large areas first.

        Args:
            sem_seg: class of every pixel; labels beyond the classes are left out.
            area_threshold: see :meth:`draw_binary_mask`.
            alpha: opacity.
            draw_text: write the class names.
            edge_color: of the outlines.
        """
        sem_seg = np.asarray(sem_seg)
        names, colors = self.metadata.stuff_classes, self.metadata.get("stuff_colors", ())
        labels, areas = np.unique(sem_seg, return_counts=True)
        for label in labels[np.argsort(-areas)].tolist():
            if label < len(names):
                self.draw_binary_mask(
                    sem_seg == label,
                    color=[c / 255 for c in colors[label]] if label < len(colors) else None,
                    edge_color=edge_color,
                    text=names[label] if draw_text else None,
                    alpha=alpha,
                    area_threshold=area_threshold,
                )
        return self.output

    def draw_dataset_dict(self, dic: dict) -> VisImage:
        """Draw the annotations and the semantic labels of a data set dict.

        Raises:
            NotImplementedError: it has panoptic labels.
        """
        annos = dic.get("annotations")
        if annos:
            boxes = [BoxMode.convert(a["bbox"], a["bbox_mode"], BoxMode.XYXY_ABS) for a in annos]
            classes = [a["category_id"] for a in annos]
            crowds = [a.get("iscrowd", 0) for a in annos]
            keypoints = [a["keypoints"] for a in annos] if "keypoints" in annos[0] else None
            self.overlay_instances(
                labels=_create_text_labels(classes, None, self.metadata.get("thing_classes"), crowds),
                boxes=boxes,
                # an object may have none where others have: it is drawn by its box
                masks=[a.get("segmentation", []) for a in annos] if "segmentation" in annos[0] else None,
                keypoints=None if keypoints is None else np.array(keypoints).reshape(len(annos), -1, 3),
                assigned_colors=self._class_colors(classes, jittering=True),
            )
        sem_seg = dic.get("sem_seg")
        if sem_seg is None and "sem_seg_file_name" in dic:
            sem_seg = read_image(dic["sem_seg_file_name"])
        if sem_seg is not None:
            self.draw_sem_seg(sem_seg, area_threshold=0, alpha=0.5)
        if "pan_seg" in dic or "pan_seg_file_name" in dic:
            raise NotImplementedError("This subset of detectron2 does not draw panoptic segmentation")
        return self.output

    def overlay_instances(
        self,
        *,
        boxes: Boxes | np.ndarray | Sequence | None = None,
        labels: Sequence[str] | None = None,
        masks: Any = None,
        keypoints: Any = None,
        assigned_colors: Sequence[Any] | None = None,
        alpha: float = 0.5,
    ) -> VisImage:
        """Draw N objects, large ones first.

        Args:
            boxes: xyxy, (N, 4).
            labels: N texts.
            masks: ``BitMasks``, ``PolygonMasks``, bitmaps (N, H, W), or N of what :class:`GenericMask` takes.
            keypoints: (N, K, 3) of x, y, visibility.
            assigned_colors: N matplotlib colours; default random.
            alpha: opacity of the masks.

        Raises:
            AssertionError: the numbers of objects differ.
        """
        boxes = None if boxes is None else self._convert_boxes(boxes)
        masks = None if masks is None else self._convert_masks(masks)
        keypoints = None if keypoints is None else np.asarray(getattr(keypoints, "tensor", keypoints))
        counts = {len(x) for x in (boxes, masks, keypoints) if x is not None}
        assert len(counts) <= 1, f"Boxes, masks and keypoints differ in number: {sorted(counts)}"
        number = counts.pop() if counts else 0
        assert labels is None or len(labels) == number, f"{len(labels)} labels for {number} objects"
        if assigned_colors is None:
            assigned_colors = [random_color(rgb=True, maximum=1) for _ in range(number)]

        areas = np.zeros(number)
        if boxes is not None:
            areas = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
        elif masks is not None:
            areas = np.asarray([mask.area() for mask in masks])
        order = np.argsort(-areas).tolist() if boxes is not None or masks is not None else range(number)
        for i in order:
            box, mask = None if boxes is None else boxes[i], None if masks is None else masks[i]
            if box is not None:
                self.draw_box(box, edge_color=assigned_colors[i])
            if mask is not None:
                for polygon in mask.polygons:
                    self.draw_polygon(polygon.reshape(-1, 2), assigned_colors[i], alpha=alpha)
            if labels is not None:
                self._label_instance(labels[i], box, mask, assigned_colors[i])
        if keypoints is not None:
            for i in order:
                self.draw_and_connect_keypoints(keypoints[i])
        return self.output

    def _label_instance(self, label: str, box: np.ndarray | None, mask: GenericMask | None, color: Any) -> None:
        """Write the label at the corner of the box or in the middle of the mask; beside it if the object is small."""
        if box is not None:
            x0, y0, x1, y1 = box
            position, alignment = (x0, y0), "left"
        elif mask is not None and mask.mask.any():
            x0, y0, x1, y1 = mask.bbox()
            position, alignment = np.median(mask.mask.nonzero(), axis=1)[::-1], "center"
        else:
            return
        height, scale = y1 - y0, self.output.scale
        if height * (x1 - x0) < _SMALL_OBJECT_AREA * scale or height < 40 * scale:
            position = (x1, y0) if y1 >= self.output.height - 5 else (x0, y1)
        size = np.clip((height / self._image_side - 0.02) / 0.08 + 1, 1.2, 2) * 0.5 * self._default_font_size
        color = change_brightness(color, 0.7)
        self.draw_text(label, position, color=color, horizontal_alignment=alignment, font_size=size)

    def draw_and_connect_keypoints(self, keypoints: Any) -> VisImage:
        """Draw the visible ones of K keypoints (K, 3), joined by ``metadata.keypoint_connection_rules``."""
        names = self.metadata.get("keypoint_names") or range(len(keypoints))
        visible = {}
        for name, (x, y, visibility) in zip(names, keypoints, strict=True):
            if visibility > self.keypoint_threshold:
                self.draw_circle((x, y), color=(1.0, 0, 0))
                visible[name] = (x, y)
        for start, end, color in self.metadata.get("keypoint_connection_rules") or ():
            if start in visible and end in visible:
                xs, ys = zip(visible[start], visible[end], strict=True)
                self.draw_line(xs, ys, color=tuple(c / 255.0 for c in color))
        return self.output

    def _class_colors(self, classes: Sequence[int], jittering: bool) -> list[tuple] | None:
        palette = self.metadata.get("thing_colors")
        if self._instance_mode != ColorMode.SEGMENTATION or not palette:
            return None
        colors = [tuple(c / 255 for c in palette[i]) for i in classes]
        return [self._jitter(color) for color in colors] if jittering else colors

    def _jitter(self, color: Sequence[float]) -> tuple[float, ...]:
        shift = np.random.rand(3)  # noqa: NPY002 -- seeded runs draw alike
        return tuple(np.clip(shift / np.linalg.norm(shift) * 0.5 + color, 0, 1))

    def _create_grayscale_image(self, mask: np.ndarray | None = None) -> np.ndarray:
        gray = np.repeat(self.img.astype(np.float32).mean(axis=2, keepdims=True), 3, axis=2)
        if mask is not None:
            gray[mask] = self.img[mask]
        return gray

    def _convert_boxes(self, boxes: Boxes | np.ndarray | Sequence) -> np.ndarray:
        boxes = boxes.tensor.detach().cpu() if isinstance(boxes, Boxes) else boxes
        boxes = np.asarray(boxes)
        boxes = boxes if len(boxes) else np.zeros((0, 4))
        assert boxes.shape[1:] == (4,), f"Boxes to draw are (N, 4), got {boxes.shape}"
        return boxes

    def _convert_masks(self, masks: Any) -> list[GenericMask]:
        if isinstance(masks, PolygonMasks):
            masks = masks.polygons
        elif isinstance(masks, BitMasks):
            masks = masks.tensor
        if isinstance(masks, torch.Tensor):
            masks = masks.cpu().numpy()
        size = self.output.height, self.output.width
        return [mask if isinstance(mask, GenericMask) else GenericMask(mask, *size) for mask in masks]

    def get_output(self) -> VisImage:
        """The canvas."""
        return self.output
