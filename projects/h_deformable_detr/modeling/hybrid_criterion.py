"""Hybrid matching (Jia et al., "DETRs with Hybrid Matching", CVPR 2023, section 3.2, the hybrid branch scheme)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor

from detrex.modeling import HungarianMatcher, LossWeights, SetCriterion
from detrex.structures import DetectorOutputs, Targets

__all__ = ["HybridCriterion"]


class HybridCriterion(SetCriterion):
    """The base criterion on the one-to-one group, and again on the one-to-many group with every object repeated.

    All layers of both groups and the proposals are matched together, in one call of the matcher.

    Args:
        num_classes: as in :class:`SetCriterion`.
        matcher: as in :class:`SetCriterion`, for both groups.
        weights: as in :class:`SetCriterion`, for both groups.
        alpha: as in :class:`SetCriterion`.
        gamma: as in :class:`SetCriterion`.
        aux_loss: as in :class:`SetCriterion`.
        num_repeats: k, the number of one-to-many queries that are matched with each object.
        one2many_weight: lambda, the factor of the one-to-many losses.

    Raises:
        ValueError: if ``num_repeats`` is less than 1 or ``one2many_weight`` is negative.
    """

    # The parameters are spelled out, so that a config's keys can be checked against them.
    def __init__(
        self,
        *,
        num_classes: int,
        matcher: HungarianMatcher,
        weights: LossWeights | None = None,
        alpha: float = 0.25,
        gamma: float = 2.0,
        aux_loss: bool = True,
        num_repeats: int = 6,
        one2many_weight: float = 1.0,
    ):
        super().__init__(
            num_classes=num_classes, matcher=matcher, weights=weights, alpha=alpha, gamma=gamma, aux_loss=aux_loss
        )
        if num_repeats < 1 or one2many_weight < 0:
            raise ValueError(
                "HybridCriterion: need num_repeats >= 1 and one2many_weight >= 0, "
                f"got {num_repeats} and {one2many_weight}"
            )
        self.num_repeats, self.one2many_weight = num_repeats, one2many_weight

    def forward(
        self, outputs: DetectorOutputs, targets: Sequence[Targets], num_boxes: int | None = None
    ) -> dict[str, Tensor]:
        """Compute the losses, whose sum is to be minimized.

        Args:
            outputs: predictions of both groups.
            targets: objects of each image.
            num_boxes: as in :class:`SetCriterion`; each object counts once.

        Returns:
            Those of :class:`SetCriterion` for the one-to-one group and the proposals; with a further suffix
            ``_one2many``, each layer's of the one-to-many group, multiplied by ``one2many_weight``.

        Raises:
            ValueError: if the outputs do not hold two groups of queries.
            FloatingPointError: if the matching meets NaN or inf.
        """
        if len(outputs.groups) != 2:
            raise ValueError(
                f"HybridCriterion needs a one-to-one and a one-to-many group of queries, got groups {outputs.groups}: "
                "set model.transformer.queries.groups.one2many above 0, or use SetCriterion"
            )
        one2one = replace(outputs.group(0), proposals=outputs.proposals)
        repeated = [target.repeat(self.num_repeats) for target in targets]
        num_repeated = None if num_boxes is None else num_boxes * self.num_repeats
        return self.compute(
            self.terms(one2one, targets, num_boxes)
            + self.terms(outputs.group(1), repeated, num_repeated, suffix="_one2many", weight=self.one2many_weight)
        )
