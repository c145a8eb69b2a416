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

__all__ = ["SetCriterion"]


@dataclass(frozen=True)
class _Term:
    """Predictions that are matched with targets, the suffix of their losses' names, their divisor and a factor."""

    suffix: str
    predictions: Predictions
    targets: Sequence[Targets]
    num_boxes: int
    weight: float = 1.0


class SetCriterion(nn.Module):
    """Weighted losses of every decoder layer and of the encoder's proposals.

    Everything is computed in float32, whatever the precision of the model.

    Args:
        num_classes: K.
        matcher: assigns objects to predictions.
        weights: of the losses; no layer has others.
        alpha, gamma: of the focal loss.
        aux_loss: whether the layers before the last count.
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
        """Losses to be summed.

        Args:
            outputs, targets: of the same images.
            num_boxes: objects that the losses are divided by, where the images are a part of an update's batch: those
                of the whole batch in this process. Default: those of ``targets``.

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
    ) -> list[_Term]:
        """What is to be matched: each layer, then the proposals if there are any."""
        *auxiliary, final = outputs.layers
        count = sum(len(target) for target in targets) if num_boxes is None else num_boxes
        terms = [_Term(suffix, final, targets, count, weight)]
        if self.aux_loss:
            terms += [_Term(f"_{i}{suffix}", layer, targets, count, weight) for i, layer in enumerate(auxiliary)]
        if outputs.proposals is not None:
            agnostic = [target.class_agnostic() for target in targets]
            terms.append(_Term(f"_enc{suffix}", outputs.proposals, agnostic, count, weight))
        return terms

    def compute(self, terms: Sequence[_Term]) -> dict[str, Tensor]:
        """Match all terms at once and return their weighted losses."""
        device_type = terms[0].predictions.logits_BQK.device.type
        with torch.autocast(device_type, enabled=False):
            matches = self.matcher([(term.predictions, term.targets) for term in terms])
            num_boxes = self.num_boxes(terms)
            losses = {}
            for term, match, count in zip(terms, matches, num_boxes, strict=True):
                losses |= self._losses(term, match, count)
        return losses

    @staticmethod
    def num_boxes(terms: Sequence[_Term]) -> Sequence[float] | Tensor:
        """The divisor of each term's losses: objects per process, averaged over the processes, at least 1."""
        counts = [float(term.num_boxes) for term in terms]
        if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
            return [max(count, 1.0) for count in counts]
        total = torch.tensor(counts, device=terms[0].predictions.logits_BQK.device)
        dist.all_reduce(total)
        return (total / dist.get_world_size()).clamp(min=1)

    def _losses(self, term: _Term, match: Match, num_boxes: float | Tensor) -> dict[str, Tensor]:
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
