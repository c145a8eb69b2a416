"""The deformable transformer encoder (Deformable DETR, section 4.2)."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from detrex.layers import FFN, MultiScaleDeformableAttention
from detrex.structures import PyramidLayout, TokenPyramid

__all__ = ["DeformableEncoder", "DeformableEncoderLayer"]


class DeformableEncoderLayer(nn.Module):
    """Deformable self-attention and FFN, each with residual and LayerNorm after it."""

    def __init__(
        self,
        *,
        embed_dim: int,
        num_heads: int,
        feedforward_dim: int,
        num_feature_levels: int,
        num_points: int,
        dropout: float,
    ):
        super().__init__()
        self.self_attn = MultiScaleDeformableAttention(
            embed_dim=embed_dim, num_heads=num_heads, num_levels=num_feature_levels, num_points=num_points
        )
        self.self_attn_norm = nn.LayerNorm(embed_dim)
        self.ffn = FFN(embed_dim=embed_dim, feedforward_dim=feedforward_dim, dropout=dropout)
        self.ffn_norm = nn.LayerNorm(embed_dim)
        self.dropout = nn.Dropout(dropout, inplace=True)

    def forward(self, x_BSC: Tensor, pos_BSC: Tensor, centres_BSL2: Tensor, layout: PyramidLayout) -> Tensor:
        attended = self.self_attn(x_BSC + pos_BSC, centres_BSL2, x_BSC, layout)
        x_BSC = self.self_attn_norm(x_BSC + self.dropout(attended))
        return self.ffn_norm(x_BSC + self.dropout(self.ffn(x_BSC)))


class DeformableEncoder(nn.Module):
    """A stack of encoder layers. The reference of a token is its own centre on every level.

    Args:
        num_layers: depth D; 0 returns the pyramid unchanged.
        embed_dim: channels C.
        num_heads: attention heads N.
        feedforward_dim: width of the FFN.
        num_feature_levels: levels L.
        num_points: sampling points P of each head and level.
        dropout: probability, after attention, inside and after the FFN.
        use_checkpoint: recompute each layer in the backward pass: less memory, the same result.
    """

    def __init__(
        self,
        *,
        num_layers: int = 6,
        embed_dim: int = 256,
        num_heads: int = 8,
        feedforward_dim: int = 1024,
        num_feature_levels: int = 4,
        num_points: int = 4,
        dropout: float = 0.1,
        use_checkpoint: bool = False,
    ):
        super().__init__()
        self.use_checkpoint = use_checkpoint
        self.layers = nn.ModuleList(
            DeformableEncoderLayer(
                embed_dim=embed_dim,
                num_heads=num_heads,
                feedforward_dim=feedforward_dim,
                num_feature_levels=num_feature_levels,
                num_points=num_points,
                dropout=dropout,
            )
            for _ in range(num_layers)
        )

    def forward(self, pyramid: TokenPyramid) -> TokenPyramid:
        """Encode a pyramid: the same positions and layout, with the tokens of the last layer."""
        layout, x_BSC = pyramid.layout, pyramid.tokens_BSC
        centres_BSL2 = layout.to_levels(layout.centres_BS2())
        recompute = self.use_checkpoint and torch.is_grad_enabled()
        for layer in self.layers:
            arguments = (x_BSC, pyramid.pos_BSC, centres_BSL2, layout)
            x_BSC = checkpoint(layer, *arguments, use_reentrant=False) if recompute else layer(*arguments)
        return replace(pyramid, tokens_BSC=x_BSC)
