"""Region proposals from the encoder's tokens (Deformable DETR, section 4.2 and appendix A.4)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from detrex.layers import inverse_sigmoid
from detrex.structures import Predictions, PyramidLayout, TokenPyramid

from .heads import DetectionHead

__all__ = ["EncoderProposals"]

BASE_SIZE = 0.05  # side of a proposal's prior box on the first level; it doubles from level to level
MARGIN_PARTS = 50  # a token whose centre is within 0.01 = 1 / (2 * 50) of the image's border makes no proposal
MAX_SIDE = 0.99  # nor does a level whose prior box is as large as the image
INVALID_LOGIT = 20.0  # sigmoid gives exactly 1 in float32: finite, and far from every object


def _margin(length: int) -> int:
    """How many cells at either end of an axis of ``length`` cells have a centre within 0.01 of the border."""
    return (length // MARGIN_PARTS + 1) // 2


class EncoderProposals(nn.Module):
    """Scores every token as a proposal and moves a prior box around its centre.

    Objectness is column 0 of the class logits, by convention of the published code and checkpoints.

    Args:
        embed_dim: channels C.
        num_classes: K of the head, kept equal to the decoder's so that checkpoints fit.
    """

    def __init__(self, *, embed_dim: int = 256, num_classes: int):
        super().__init__()
        self.memory_proj = nn.Linear(embed_dim, embed_dim)
        self.memory_norm = nn.LayerNorm(embed_dim)
        nn.init.xavier_uniform_(self.memory_proj.weight)
        self.head = DetectionHead(embed_dim=embed_dim, num_classes=num_classes)

    @staticmethod
    def num_valid(layout: PyramidLayout) -> tuple[int, ...]:
        """How many tokens of each image make a proposal. Known from the sizes, without asking the device."""
        return tuple(
            sum(
                max(h - 2 * _margin(h), 0) * max(w - 2 * _margin(w), 0)
                for level, (h, w) in enumerate(sizes)
                if BASE_SIZE * 2**level < MAX_SIDE
            )
            for sizes in layout.valid_sizes
        )

    @staticmethod
    def invalid_tokens(layout: PyramidLayout) -> Tensor:
        """Bool (B, S), True on tokens that make no proposal: on padding, near the border, of too coarse a level."""
        device, invalid = layout.valid_BL2.device, []
        for level, (height, width) in enumerate(layout.shapes):
            x_W, y_H = torch.arange(width, device=device), torch.arange(height, device=device)
            w_B, h_B = layout.valid_BL2[:, level].long().unbind(-1)

            def outside(index: Tensor, valid_B: Tensor) -> Tensor:
                margin_B = (valid_B // MARGIN_PARTS + 1) // 2
                return (index < margin_B[:, None]) | (index >= (valid_B - margin_B)[:, None])

            outside_BHW = outside(y_H, h_B)[:, :, None] | outside(x_W, w_B)[:, None, :]
            if BASE_SIZE * 2**level >= MAX_SIDE:
                outside_BHW = torch.ones_like(outside_BHW)
            invalid.append(outside_BHW.flatten(1))
        return torch.cat(invalid, 1)

    def forward(self, memory: TokenPyramid) -> tuple[Predictions, Tensor]:
        """Predictions of all S tokens, and their boxes (B, S, 4) in logit space.

        Tokens that make no proposal are marked as padding of the predictions for whoever selects. They keep the logits
        that the published code gives them, since its loss counts them as background.
        """
        layout = memory.layout
        invalid_BS1 = self.invalid_tokens(layout)[..., None]
        tokens_BSC = memory.tokens_BSC.masked_fill(invalid_BS1, 0.0)
        logits_BSK, delta_BS4 = self.head(self.memory_norm(self.memory_proj(tokens_BSC)))
        unactivated_BS4 = (delta_BS4.float() + self._prior(layout)).masked_fill(invalid_BS1, INVALID_LOGIT)
        return Predictions(logits_BSK, unactivated_BS4.sigmoid(), invalid_BS1[..., 0]), unactivated_BS4

    @staticmethod
    def _prior(layout: PyramidLayout) -> Tensor:
        centres_BS2 = layout.centres_BS2()
        side_S = torch.cat(
            [centres_BS2.new_full((n,), min(BASE_SIZE * 2**level, 1.0)) for level, n in enumerate(layout.lengths)]
        )
        sides_BS2 = side_S[:, None].expand_as(centres_BS2)
        # No valid token's prior is within eps of 0 or 1; the bound keeps the others finite.
        return inverse_sigmoid(torch.cat([centres_BS2, sides_BS2], -1), eps=1e-6)
