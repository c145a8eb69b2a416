"""Ground truth on its way to the criterion."""

from __future__ import annotations

import torch
from torch import Tensor

from detrex.layers import box_xyxy_to_cxcywh
from detrex.structures import Targets

__all__ = ["make_targets"]


def make_targets(labels_M: Tensor, xyxy_M4: Tensor, image_size: tuple[int, int]) -> tuple[Targets, int]:
    """Normalise one image's objects and leave out the boxes that no prediction can match.

    Args:
        labels_M: class indices.
        xyxy_M4: corners in pixels of the (augmented) image.
        image_size: its (height, width).

    Returns:
        The targets, on the boxes' device, and how many boxes were dropped: not finite, or without width or height.
    """
    height, width = image_size
    boxes_M4 = box_xyxy_to_cxcywh(xyxy_M4.float()) / torch.tensor([width, height, width, height], device=xyxy_M4.device)
    keep_M = boxes_M4.isfinite().all(-1) & (boxes_M4[:, 2:] > 0).all(-1)
    kept = Targets(labels_M[keep_M].long(), boxes_M4[keep_M])
    return kept, len(labels_M) - len(kept)
