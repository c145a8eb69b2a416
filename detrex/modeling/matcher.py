"""Bipartite matching of predictions and objects (DETR, section 3.1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from detrex.layers import box_cxcywh_to_xyxy, generalized_box_iou
from detrex.structures import Predictions, Targets

__all__ = ["HungarianMatcher", "Match"]

NO_PREDICTION = 1e6  # cost of a slot that holds no prediction, far above that of any prediction


@dataclass(frozen=True)
class Match:
    """The M matched pairs of a batch.

    Attributes:
        image_M: (M,) int64, index of the image.
        query_M: (M,) int64, index of the query.
        target_M: (M,) int64, index of the object in the concatenated targets of all images.
    """

    image_M: Tensor
    query_M: Tensor
    target_M: Tensor


class HungarianMatcher:
    """One-to-one assignment with minimum cost (DETR, section 3.1), with the focal cost of Deformable DETR.

    Costs are computed in float32 and only within an image. All predictions of a step share one copy to the host and one
    back. Override :meth:`cost` to match by other criteria.

    Args:
        cost_class: weight of the focal classification cost.
        cost_bbox: weight of the L1 distance of the boxes.
        cost_giou: weight of the generalized IoU.
        alpha: weight of the positives in the focal cost.
        gamma: focusing parameter of the focal cost.
    """

    def __init__(
        self,
        *,
        cost_class: float = 2.0,
        cost_bbox: float = 5.0,
        cost_giou: float = 2.0,
        alpha: float = 0.25,
        gamma: float = 2.0,
    ):
        self.cost_class, self.cost_bbox, self.cost_giou = cost_class, cost_bbox, cost_giou
        self.alpha, self.gamma = alpha, gamma

    @torch.no_grad()
    def __call__(self, pairs: Sequence[tuple[Predictions, Sequence[Targets]]]) -> list[Match]:
        """Match several predictions, such as those of all decoder layers, with their targets.

        Args:
            pairs: for each prediction, the prediction and the targets of every image of the batch.

        Returns:
            One match for each pair.

        Raises:
            FloatingPointError: a cost is not finite; the message names the prediction and the image.
        """
        costs = [
            self.cost(logits_QK, boxes_Q4, padding_Q, target)
            for predictions, targets in pairs
            for logits_QK, boxes_Q4, padding_Q, target in zip(*self._per_image(predictions), targets, strict=True)
        ]
        flat = torch.cat([cost.flatten() for cost in costs]).cpu().numpy()
        ends = np.cumsum([cost.numel() for cost in costs])[:-1]
        assignments = iter(
            self._assign(values.reshape(cost.shape), cost_index, len(pairs[0][1]))
            for cost_index, (values, cost) in enumerate(zip(np.split(flat, ends), costs, strict=True))
        )
        indices = []
        for _, targets in pairs:
            offset, parts = 0, []
            for image, target in enumerate(targets):
                query, row = next(assignments)
                parts.append(np.stack([np.full_like(query, image), query, row + offset]))
                offset += len(target)
            indices.append(np.concatenate(parts, axis=1))
        device = pairs[0][0].logits_BQK.device
        on_device = torch.from_numpy(np.concatenate(indices, axis=1)).to(device, non_blocking=True)
        return [Match(*part.unbind(0)) for part in on_device.split([index.shape[1] for index in indices], dim=1)]

    @staticmethod
    def _per_image(predictions: Predictions) -> tuple[Sequence, Sequence, Sequence]:
        images = len(predictions.logits_BQK)
        padding = predictions.padding_BQ
        return predictions.logits_BQK, predictions.boxes_BQ4, [None] * images if padding is None else padding

    def cost(self, logits_QK: Tensor, boxes_Q4: Tensor, padding_Q: Tensor | None, target: Targets) -> Tensor:
        """Matching cost of one image.

        Args:
            logits_QK: (Q, K) class logits.
            boxes_Q4: (Q, 4) predicted boxes.
            padding_Q: (Q,) bool, True on slots without a prediction, which must cost ``NO_PREDICTION``; None if there
                are none.
            target: the M objects of the image.

        Returns:
            (Q, M) costs in float32.
        """
        probability_QM = logits_QK[:, target.labels_M].float().sigmoid()
        positive = self.alpha * (1 - probability_QM) ** self.gamma * -(probability_QM + 1e-8).log()
        negative = (1 - self.alpha) * probability_QM**self.gamma * -(1 - probability_QM + 1e-8).log()
        boxes_Q4, target_M4 = boxes_Q4.float(), target.boxes_M4.float()
        distance_QM = torch.cdist(boxes_Q4, target_M4, p=1)
        giou_QM = generalized_box_iou(box_cxcywh_to_xyxy(boxes_Q4), box_cxcywh_to_xyxy(target_M4))
        cost_QM = self.cost_class * (positive - negative) + self.cost_bbox * distance_QM - self.cost_giou * giou_QM
        return cost_QM if padding_Q is None else cost_QM.masked_fill(padding_Q[:, None], NO_PREDICTION)

    @staticmethod
    def _assign(cost_QM: np.ndarray, index: int, num_images: int) -> tuple[np.ndarray, np.ndarray]:
        if not np.isfinite(cost_QM).all():
            layer, image = divmod(index, num_images)
            raise FloatingPointError(
                f"matching cost of image {image} of the batch is not finite in prediction {layer} of the step: the "
                "model's logits or boxes, or this image's target boxes, hold NaN or inf"
            )
        query, row = linear_sum_assignment(cost_QM)
        found = cost_QM[query, row] < NO_PREDICTION
        return query[found], row[found]
