"""Box arithmetic on tensors of any leading shape. Coordinates are relative unless said otherwise."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = [
    "apply_box_delta",
    "box_cxcywh_to_xyxy",
    "box_xyxy_to_cxcywh",
    "elementwise_generalized_box_iou",
    "generalized_box_iou",
    "inverse_sigmoid",
]


def box_cxcywh_to_xyxy(boxes: Tensor) -> Tensor:
    """(..., 4) centre and size -> corners."""
    centre, size = boxes[..., :2], boxes[..., 2:]
    return torch.cat([centre - size / 2, centre + size / 2], -1)


def box_xyxy_to_cxcywh(boxes: Tensor) -> Tensor:
    """(..., 4) corners -> centre and size."""
    low, high = boxes[..., :2], boxes[..., 2:]
    return torch.cat([(low + high) / 2, high - low], -1)


def generalized_box_iou(boxes1_N4: Tensor, boxes2_M4: Tensor, eps: float = 1e-7) -> Tensor:
    """Pairwise generalized IoU (Rezatofighi et al., CVPR 2019), as in torchvision and DETR.

    Args:
        boxes1_N4: (N, 4) boxes as ``xyxy``.
        boxes2_M4: (M, 4) boxes as ``xyxy``.
        eps: see :func:`elementwise_generalized_box_iou`.

    Returns:
        (N, M) values in [-1, 1].
    """
    return elementwise_generalized_box_iou(boxes1_N4[:, None], boxes2_M4[None], eps)


def elementwise_generalized_box_iou(boxes1: Tensor, boxes2: Tensor, eps: float = 1e-7) -> Tensor:
    """Generalized IoU of boxes with the same index, after broadcasting.

    Args:
        boxes1: (..., 4) boxes as ``xyxy``.
        boxes2: (..., 4) boxes as ``xyxy``, of a shape that broadcasts with ``boxes1``.
        eps: lower bound of the areas in the denominators; two empty boxes give a finite value.

    Returns:
        (...) values in [-1, 1].
    """
    area1 = (boxes1[..., 2:] - boxes1[..., :2]).prod(-1)
    area2 = (boxes2[..., 2:] - boxes2[..., :2]).prod(-1)
    overlap_low = torch.maximum(boxes1[..., :2], boxes2[..., :2])
    overlap_high = torch.minimum(boxes1[..., 2:], boxes2[..., 2:])
    intersection = (overlap_high - overlap_low).clamp(min=0).prod(-1)
    union = area1 + area2 - intersection
    hull_low = torch.minimum(boxes1[..., :2], boxes2[..., :2])
    hull_high = torch.maximum(boxes1[..., 2:], boxes2[..., 2:])
    hull = (hull_high - hull_low).clamp(min=0).prod(-1)
    return intersection / union.clamp(min=eps) - (hull - union) / hull.clamp(min=eps)


def inverse_sigmoid(x: Tensor, eps: float = 1e-5) -> Tensor:
    """Logit of ``x``, whose distance to 0 and to 1 counts as at least ``eps``.

    The official Deformable DETR and H-Deformable-DETR use 1e-5, detrex's zoo 1e-3: boxes smaller than ``eps`` differ.
    """
    x = x.clamp(0, 1)
    return torch.log(x.clamp(min=eps) / (1 - x).clamp(min=eps))


def apply_box_delta(delta: Tensor, reference: Tensor, eps: float) -> Tensor:
    """Move a reference by a delta in logit space (Deformable DETR, appendix A.3).

    Args:
        delta: (..., 4) raw output of the box head.
        reference: (..., 2) points or (..., 4) boxes in [0, 1].
        eps: see :func:`inverse_sigmoid`.

    Returns:
        (..., 4) boxes in [0, 1], float32 at least. A point moves the centre alone; the size is the head's own.
    """
    logit = inverse_sigmoid(reference, eps)
    return (delta.to(logit.dtype) + F.pad(logit, (0, 4 - logit.shape[-1]))).sigmoid()
