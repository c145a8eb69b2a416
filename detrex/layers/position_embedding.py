"""Sine embeddings of positions (Vaswani et al. 2017; DETR, appendix A.4)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from detrex.structures import PyramidLayout

__all__ = ["PositionEmbeddingSine", "sine_embed"]


def sine_embed(x: Tensor, num_feats: int, temperature: float) -> Tensor:
    """Positions in turns, any shape (...) -> (..., num_feats): sines and cosines, interleaved.

    Args:
        x: 1.0 is one full turn of the fastest wave.
        num_feats: even number of features.
        temperature: ratio of the slowest wave to the fastest.
    """
    exponent = torch.arange(0, num_feats, 2, device=x.device, dtype=torch.float32) / num_feats
    angle = (x * (2 * math.pi))[..., None] / temperature**exponent
    return torch.stack([angle.sin(), angle.cos()], -1).flatten(-2)


class PositionEmbeddingSine(nn.Module):
    """Embeds the centre of every token, normalised to the image without its padding.

    Args:
        embed_dim: channels C, a multiple of 4: one half for y, the other for x.
        temperature: see :func:`sine_embed`.
        offset: added to the 1-based row and column; -0.5 is the token's centre (the official code), 0 its far edge.
        eps: added to the number of rows and columns.
    """

    def __init__(self, *, embed_dim: int, temperature: float = 10000.0, offset: float = -0.5, eps: float = 1e-6):
        super().__init__()
        if embed_dim % 4:
            raise ValueError(f"PositionEmbeddingSine: embed_dim must be a multiple of 4, got {embed_dim}")
        self.num_feats = embed_dim // 2
        self.temperature, self.offset, self.eps = temperature, offset, eps

    def forward(self, layout: PyramidLayout) -> tuple[Tensor, ...]:
        """One (B, H*W, C) tensor for each level; B is 1 if no image is padded, since all are then the same."""
        valid_BL2 = layout.valid_BL2 if layout.padding_BS is not None else layout.valid_BL2[:1]
        return tuple(self._level(h, w, wh_B2) for (h, w), wh_B2 in zip(layout.shapes, valid_BL2.unbind(1), strict=True))

    def _level(self, height: int, width: int, wh_B2: Tensor) -> Tensor:
        def embed_axis(length: int, valid_B: Tensor) -> Tensor:
            index = torch.arange(1, length + 1, device=valid_B.device) + self.offset
            return sine_embed(index / (valid_B[:, None] + self.eps), self.num_feats, self.temperature)

        x_BWF, y_BHF = embed_axis(width, wh_B2[:, 0]), embed_axis(height, wh_B2[:, 1])
        y_BHWF = y_BHF[:, :, None].expand(-1, -1, width, -1)
        x_BHWF = x_BWF[:, None].expand(-1, height, -1, -1)
        return torch.cat([y_BHWF, x_BHWF], -1).flatten(1, 2)
