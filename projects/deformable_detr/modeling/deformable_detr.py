"""Deformable DETR: Deformable Transformers for End-to-End Object Detection (arXiv 2010.04159)."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

import torch
from detectron2.modeling import detector_postprocess
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import get_event_storage, has_event_storage
from torch import Tensor, nn

from detrex.layers import box_cxcywh_to_xyxy
from detrex.modeling.batching import PadFeatures, PadImages, WholeBatch
from detrex.modeling.postprocess import select_top
from detrex.modeling.targets import make_targets
from detrex.structures import DetectorOutputs, Predictions, Size, Targets

__all__ = ["DeformableDETR"]

logger = logging.getLogger(__name__)

Batching = PadImages | PadFeatures


class DeformableDETR(nn.Module):
    """Deformable DETR: backbone, neck, transformer and criterion.

    Variants, H-Deformable-DETR included, are compositions of other parts.

    Args:
        num_classes: K. Other parts of a config refer to this value.
        backbone: images (B, 3, H, W) -> feature maps by name.
        neck: feature maps by name -> L maps (B, C, H_l, W_l). One with ``for_backbone`` may take their channels from
            the backbone.
        transformer: maps and their layout -> :class:`DetectorOutputs`.
        criterion: outputs and targets -> weighted losses.
        pixel_mean: mean of each input channel, on the scale of 0 to 255. None takes that of the backbone's weights.
        pixel_std: standard deviation of each input channel, on the same scale. None likewise.
        num_select: number of detections per image.
        train_batching: how training images of different size share a batch. Default: :class:`PadImages`, as published.
        eval_batching: the same for evaluation. Default: :class:`PadFeatures`, with which an image gets the same boxes
            in every batch.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        backbone: nn.Module,
        neck: nn.Module,
        transformer: nn.Module,
        criterion: nn.Module,
        pixel_mean: Sequence[float] | None = None,
        pixel_std: Sequence[float] | None = None,
        num_select: int = 300,
        train_batching: Batching | None = None,
        eval_batching: Batching | None = None,
    ):
        super().__init__()
        self.num_classes, self.num_select = num_classes, num_select
        # The order of the parts is that of the parameters, and so of the optimizer's state in checkpoints.
        self.backbone = backbone
        self.neck = neck.for_backbone(backbone) if hasattr(neck, "for_backbone") else neck
        self.transformer, self.criterion = transformer, criterion
        self.train_batching = train_batching if train_batching is not None else PadImages()
        self.eval_batching = eval_batching if eval_batching is not None else PadFeatures()
        self.register_buffer("pixel_mean", _pixels(backbone, "pixel_mean", pixel_mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("pixel_std", _pixels(backbone, "pixel_std", pixel_std).view(-1, 1, 1), persistent=False)

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return self.pixel_mean.device

    def forward(
        self, batched_inputs: Sequence[Mapping], whole_batch: WholeBatch | None = None
    ) -> dict[str, Tensor] | list[dict[str, Instances]]:
        """Compute losses in training mode, detections in evaluation mode.

        Args:
            batched_inputs: for each image a dict with ``image`` (3, h, w), on the scale of 0 to 255. Training needs
                ``instances`` with ``gt_boxes`` and ``gt_classes``. Evaluation gives boxes in an image of ``height`` x
                ``width`` (default: the given image's own size).
            whole_batch: in training, the batch of which the inputs are a part. The losses of all parts then add up to
                those of the batch. Default: the inputs are the batch.

        Returns:
            Training: weighted losses by name, to be summed. Evaluation: for each image ``{"instances": Instances}``
            with ``pred_boxes``, ``scores`` (descending) and ``pred_classes``.

        Raises:
            ValueError: if a ground-truth class is not in [0, num_classes), naming the image.
        """
        if not self.training:
            outputs = self.outputs([x["image"] for x in batched_inputs])
            return self._detections(outputs.layers[-1], batched_inputs)
        targets = self._targets(batched_inputs)
        images = [x["image"] for x in batched_inputs]
        if whole_batch is None:
            return self.criterion(self.outputs(images), targets)
        return self.criterion(self.outputs(images, whole_batch.size), targets, whole_batch.num_boxes)

    def outputs(self, images: Sequence[Tensor], min_size: Size = (0, 0)) -> DetectorOutputs:
        """Normalize and batch images, and run backbone, neck and transformer.

        Args:
            images: tensors (3, h, w) of any sizes and on any device, with values from 0 to 255.
            min_size: (height, width) to which smaller images are padded, where the batching pads images.

        Returns:
            Predictions of all decoder layers and, if there are any, of the encoder's proposals.
        """
        normalized = [(x.to(self.device, non_blocking=True) - self.pixel_mean) / self.pixel_std for x in images]
        batching = self.train_batching if self.training else self.eval_batching
        features, layout = batching(normalized, lambda x: self.neck(self.backbone(x)), min_size)
        return self.transformer(features, layout)

    def _targets(self, batched_inputs: Sequence[Mapping]) -> list[Targets]:
        targets = []
        for x in batched_inputs:
            instances, name = x["instances"], x.get("file_name", "an image without file_name")
            labels = instances.gt_classes
            if len(labels) and not (0 <= int(labels.min()) and int(labels.max()) < self.num_classes):
                raise ValueError(
                    f"{name}: ground-truth classes {sorted(set(labels.tolist()))} are not all in "
                    f"[0, {self.num_classes}): set model.num_classes to the number of classes of the data set"
                )
            target, dropped = make_targets(labels, instances.gt_boxes.tensor, instances.image_size)
            if dropped:
                logger.warning(
                    "%s: left out %d boxes without area or with coordinates that are not finite", name, dropped
                )
                if has_event_storage():
                    get_event_storage().put_scalar("degenerate_boxes", dropped)
            targets.append(
                Targets(
                    target.labels_M.to(self.device, non_blocking=True),
                    target.boxes_M4.to(self.device, non_blocking=True),
                )
            )
        return targets

    def _detections(self, final: Predictions, batched_inputs: Sequence[Mapping]) -> list[dict[str, Instances]]:
        detections = []
        for x, scores, labels, boxes in zip(batched_inputs, *select_top(final, self.num_select), strict=True):
            size = tuple(x["image"].shape[-2:])
            instances = Instances(size)
            instances.pred_boxes = Boxes(box_cxcywh_to_xyxy(boxes))
            instances.pred_boxes.scale(scale_x=size[1], scale_y=size[0])
            instances.scores, instances.pred_classes = scores, labels
            if final.padding_BQ is not None:
                instances = instances[scores > 0]
            height, width = x.get("height", size[0]), x.get("width", size[1])
            detections.append({"instances": detector_postprocess(instances, height, width)})
        return detections


def _pixels(backbone: nn.Module, name: str, given: Sequence[float] | None) -> Tensor:
    values = getattr(backbone, name, None) if given is None else given
    if values is None:
        raise ValueError(f"{name} is required: {type(backbone).__name__} does not know that of its weights")
    return torch.tensor(list(values))
