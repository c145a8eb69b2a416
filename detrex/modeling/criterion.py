"""The set prediction loss (DETR, section 3.1, with the focal loss of Deformable DETR)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn

from detrex.structures import DetectorOutputs, Predictions, Targets

from .losses import LossWeights, box_losses, sigmoid_focal_loss
from .matcher import HungarianMatcher, Match

__all__ = ["LossTerm", "SetCriterion"]


@dataclass(frozen=True)
class LossTerm:
    """Predictions of one layer and the targets that they are matched with.

    Attributes:
        suffix: appended to the names of the losses.
        predictions: of the layer.
        targets: of each image.
        num_boxes: number of objects, by which the losses are divided.
        weight: factor of the losses.
    """

    suffix: str
    predictions: Predictions
    targets: Sequence[Targets]
    num_boxes: int
    weight: float = 1.0


class SetCriterion(nn.Module):
    """Weighted losses of every decoder layer and of the encoder's proposals, in float32.

    Args:
        num_classes: K.
        matcher: assigns objects to predictions.
        weights: weights of the losses, the same for all layers.
        alpha: weight of the positives in the focal loss.
        gamma: focusing parameter of the focal loss.
        aux_loss: include the layers before the last one.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        matcher: HungarianMatcher,
        weights: LossWeights | None = None,
        alpha: float = 0.25,
        gamma: float = 2.0,
        aux_loss: bool = True,
    ):
        super().__init__()
        self.num_classes, self.matcher = num_classes, matcher
        self.weights = weights if weights is not None else LossWeights()
        self.alpha, self.gamma, self.aux_loss = alpha, gamma, aux_loss

    def forward(
        self, outputs: DetectorOutputs, targets: Sequence[Targets], num_boxes: int | None = None
    ) -> dict[str, Tensor]:
        """Compute the losses, whose sum is to be minimized.

        Args:
            outputs: predictions of the images.
            targets: objects of the same images.
            num_boxes: number of objects by which the losses are divided. Give it where the images are a part of an
                update's batch: it counts this process's objects in the complete batch. Default: those of ``targets``.

        Returns:
            ``loss_class``, ``loss_bbox`` and ``loss_giou`` of the last layer; with suffix ``_0``, ``_1``, ... of the
            layers before it; with suffix ``_enc`` of the proposals, whose targets all have class 0.

        Raises:
            FloatingPointError: if the matching meets NaN or inf.
        """
        return self.compute(self.terms(outputs, targets, num_boxes))

    def terms(
        self,
        outputs: DetectorOutputs,
        targets: Sequence[Targets],
        num_boxes: int | None = None,
        *,
        suffix: str = "",
        weight: float = 1.0,
    ) -> list[LossTerm]:
        """Terms of the last layer, of the layers before it, and of the proposals, if there are any."""
        *auxiliary, final = outputs.layers
        count = sum(len(target) for target in targets) if num_boxes is None else num_boxes
        terms = [LossTerm(suffix, final, targets, count, weight)]
        if self.aux_loss:
            terms += [LossTerm(f"_{i}{suffix}", layer, targets, count, weight) for i, layer in enumerate(auxiliary)]
        if outputs.proposals is not None:
            agnostic = [target.class_agnostic() for target in targets]
            terms.append(LossTerm(f"_enc{suffix}", outputs.proposals, agnostic, count, weight))
        return terms

    def compute(self, terms: Sequence[LossTerm]) -> dict[str, Tensor]:
        """Match all terms at once and return their weighted losses."""
        device_type = terms[0].predictions.logits_BQK.device.type
        with torch.autocast(device_type, enabled=False):
            matches = self.matcher([(term.predictions, term.targets) for term in terms])
            num_boxes = self.num_boxes(terms)
            losses = {}
            for term, match, count in zip(terms, matches, num_boxes, strict=True):
                losses |= self.losses(term, match, count)
        return losses

    @staticmethod
    def num_boxes(terms: Sequence[LossTerm]) -> Sequence[float] | Tensor:
        """The divisor of each term's losses: objects per process, averaged over the processes, at least 1."""
        counts = [float(term.num_boxes) for term in terms]
        if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
            return [max(count, 1.0) for count in counts]
        total = torch.tensor(counts, device=terms[0].predictions.logits_BQK.device)
        dist.all_reduce(total)
        return (total / dist.get_world_size()).clamp(min=1)

    def losses(self, term: LossTerm, match: Match, num_boxes: float | Tensor) -> dict[str, Tensor]:
        """Weighted losses of one term. Override it to add losses or to replace them.

        Args:
            term: the predictions, their targets, and the suffix of the losses' names.
            match: the M matched pairs.
            num_boxes: divisor of the losses, averaged over the processes.

        Returns:
            Scalars by name.
        """
        labels_M = torch.cat([target.labels_M for target in term.targets])[match.target_M]
        boxes_M4 = torch.cat([target.boxes_M4 for target in term.targets])[match.target_M]
        logits_BQK = term.predictions.logits_BQK.float()
        onehot_BQK = torch.zeros_like(logits_BQK)
        onehot_BQK[match.image_M, match.query_M, labels_M] = 1
        matched_M4 = term.predictions.boxes_BQ4[match.image_M, match.query_M].float()
        l1, giou = box_losses(matched_M4, boxes_M4)
        focal = sigmoid_focal_loss(logits_BQK, onehot_BQK, alpha=self.alpha, gamma=self.gamma)
        scale = term.weight / num_boxes
        return {
            f"loss_class{term.suffix}": focal * (self.weights.class_ * scale),
            f"loss_bbox{term.suffix}": l1 * (self.weights.bbox * scale),
            f"loss_giou{term.suffix}": giou * (self.weights.giou * scale),
        }
