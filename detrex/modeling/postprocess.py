"""From predictions to detections."""

from __future__ import annotations

from torch import Tensor

from detrex.structures import Predictions

__all__ = ["select_top"]


def select_top(predictions: Predictions, num_select: int) -> tuple[Tensor, Tensor, Tensor]:
    """The pairs of query and class with the highest probability (Deformable DETR's test protocol).

    Args:
        predictions: of the last decoder layer.
        num_select: T, clamped to the number of pairs. The official code takes 100, detrex and H-Deformable-DETR 300.

    Returns:
        Scores (B, T) in descending order, 0 where there is no prediction; class labels (B, T); boxes (B, T, 4).
    """
    probability_BQK = predictions.logits_BQK.float().sigmoid()
    if predictions.padding_BQ is not None:
        probability_BQK = probability_BQK.masked_fill(predictions.padding_BQ[..., None], 0.0)
    num_classes = probability_BQK.shape[-1]
    flat = probability_BQK.flatten(1)
    scores_BT, index_BT = flat.topk(min(num_select, flat.shape[1]), dim=1)
    query_BT1 = index_BT.div(num_classes, rounding_mode="floor")[..., None]
    return scores_BT, index_BT % num_classes, predictions.boxes_BQ4.gather(1, query_BT1.expand(-1, -1, 4))
