"""The head that turns query or token features into classes and boxes."""

from __future__ import annotations

import math

from torch import Tensor, nn

from detrex.layers import MLP

__all__ = ["DetectionHead"]

PRIOR_PROBABILITY = 0.01  # of any class before training (RetinaNet, section 4.1)


class DetectionHead(nn.Module):
    """A linear classifier and a three-layer box MLP, whose boxes start at the reference.

    Args:
        embed_dim: channels C.
        num_classes: K.
    """

    def __init__(self, *, embed_dim: int, num_classes: int):
        super().__init__()
        self.class_embed = nn.Linear(embed_dim, num_classes)
        self.bbox_embed = MLP(in_dim=embed_dim, hidden_dim=embed_dim, out_dim=4, num_layers=3)
        nn.init.constant_(self.class_embed.bias, -math.log((1 - PRIOR_PROBABILITY) / PRIOR_PROBABILITY))
        last = self.bbox_embed.layers[-1]
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)

    def forward(self, x_BQC: Tensor) -> tuple[Tensor, Tensor]:
        """Class logits (B, Q, K) and box deltas (B, Q, 4) in logit space."""
        return self.class_embed(x_BQC), self.bbox_embed(x_BQC)
