"""Losses of matched predictions, in float32 and not yet normalised."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from detrex.layers import box_cxcywh_to_xyxy, elementwise_generalized_box_iou

__all__ = ["LossWeights", "box_losses", "sigmoid_focal_loss"]


@dataclass(frozen=True)
class LossWeights:
    """Weights of the three losses; every layer and the proposals use the same.

    detrex's zoo trained with ``class_`` 1 (its plain Deformable DETR with 2), the official repositories with 2.
    """

    class_: float = 2.0
    bbox: float = 5.0
    giou: float = 2.0


def sigmoid_focal_loss(logits: Tensor, targets: Tensor, *, alpha: float, gamma: float) -> Tensor:
    """Sum of the focal loss (Lin et al., ICCV 2017, equation 5) over all elements.

    Args:
        logits: any shape.
        targets: 0 or 1, the same shape.
        alpha: weight of the positives; ``1 - alpha`` that of the negatives.
        gamma: how much well-classified elements are discounted.
    """
    cross_entropy = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    probability = logits.sigmoid()
    error = probability + targets - 2 * probability * targets  # 1 - p_t
    weight = (1 - alpha) + (2 * alpha - 1) * targets
    return (weight * cross_entropy * error**gamma).sum()


def box_losses(predicted_M4: Tensor, target_M4: Tensor) -> tuple[Tensor, Tensor]:
    """Sums over M pairs of ``cxcywh`` boxes: the L1 distance, and 1 - generalised IoU."""
    l1 = (predicted_M4 - target_M4).abs().sum()
    giou_M = elementwise_generalized_box_iou(box_cxcywh_to_xyxy(predicted_M4), box_cxcywh_to_xyxy(target_M4))
    return l1, (1 - giou_M).sum()
