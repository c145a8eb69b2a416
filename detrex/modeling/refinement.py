"""What a decoder layer hands to the next one: where to look, and what to correct.

A decoder layer samples around an *anchor* and predicts a correction of a *base*. Given the anchor of this layer and the
box refined from it, a policy says what base and anchor the next layer gets.
"""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

__all__ = ["IterativeRefinement", "LookForwardTwice", "NoRefinement", "RefinementPolicy"]


class RefinementPolicy(Protocol):
    """A rule from the references of one decoder layer to those of the next.

    ``shared_heads``: whether all layers use one head. They do when every layer corrects the same reference.
    """

    shared_heads: bool

    def __call__(self, anchor: Tensor, refined_BQ4: Tensor) -> tuple[Tensor, Tensor]:
        """(anchor of this layer, its refined box) -> (base, anchor) of the next layer."""
        ...


class NoRefinement:
    """Every layer corrects the initial reference (Deformable DETR, section 4.2)."""

    shared_heads = True

    def __call__(self, anchor: Tensor, refined_BQ4: Tensor) -> tuple[Tensor, Tensor]:
        return anchor, anchor


class IterativeRefinement:
    """Each layer corrects the box of the one before, which gets no gradient from it (Deformable DETR, section 4.2)."""

    shared_heads = False

    def __call__(self, anchor: Tensor, refined_BQ4: Tensor) -> tuple[Tensor, Tensor]:
        refined_BQ4 = refined_BQ4.detach()
        return refined_BQ4, refined_BQ4


class LookForwardTwice:
    """As iterative refinement, but the loss of a layer also corrects the layer before (DINO, section 3.5)."""

    shared_heads = False

    def __call__(self, anchor: Tensor, refined_BQ4: Tensor) -> tuple[Tensor, Tensor]:
        return refined_BQ4, refined_BQ4.detach()
