"""Non-maximum suppression, from torchvision."""

from torch import Tensor


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """``torchvision.ops.nms``: int64 indices of the kept ones of boxes (N, 4), by falling score."""
    from torchvision.ops import nms  # as slow to import as torch itself

    return nms(boxes, scores, iou_threshold)


def batched_nms(boxes: Tensor, scores: Tensor, idxs: Tensor, iou_threshold: float) -> Tensor:
    """Suppress overlapping boxes within each class.

    Args:
        boxes: (N, 4), xyxy; taken to float32, since half precision cannot hold the per-class offsets.
        scores: (N,).
        idxs: (N,), class of each box.
        iou_threshold: boxes overlapping a better one by more than this are dropped.

    Returns:
        int64 indices of the kept boxes, by falling score.
    """
    assert boxes.shape[-1] == 4, f"batched_nms needs boxes of shape (N, 4), got {tuple(boxes.shape)}"
    from torchvision.ops import batched_nms

    return batched_nms(boxes.float(), scores, idxs, iou_threshold)
