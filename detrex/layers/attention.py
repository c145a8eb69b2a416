"""Multi-scale deformable attention (Deformable DETR, section 4.1, equation 3)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from detrex.structures import PyramidLayout
from detrex_ops import ms_deform_attn_fused

__all__ = ["MultiScaleDeformableAttention"]


class MultiScaleDeformableAttention(nn.Module):
    """Each query samples a few points of every level around its reference and mixes them.

    Args:
        embed_dim: channels C of queries and values.
        num_heads: N; divides ``embed_dim``.
        num_levels: L of the pyramid.
        num_points: P sampled by each head on each level.

    Raises:
        ValueError: if ``num_heads`` does not divide ``embed_dim``.
    """

    def __init__(self, *, embed_dim: int = 256, num_heads: int = 8, num_levels: int = 4, num_points: int = 4):
        super().__init__()
        if embed_dim % num_heads:
            raise ValueError(f"num_heads={num_heads} does not divide embed_dim={embed_dim}")
        self.num_heads, self.num_levels, self.num_points = num_heads, num_levels, num_points
        samples = num_heads * num_levels * num_points
        self.sampling_offsets = nn.Linear(embed_dim, 2 * samples)
        self.attention_weights = nn.Linear(embed_dim, samples)
        self.value_proj = nn.Linear(embed_dim, embed_dim)
        self.output_proj = nn.Linear(embed_dim, embed_dim)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Head n looks in direction 2*pi*n/N, its p-th point p cells away; all points weigh the same."""
        nn.init.zeros_(self.sampling_offsets.weight)
        with torch.no_grad():
            bias = self.sampling_offsets.bias
            angle_N = torch.arange(self.num_heads, dtype=torch.float32, device=bias.device) * (
                2.0 * math.pi / self.num_heads
            )
            direction_N2 = torch.stack([angle_N.cos(), angle_N.sin()], -1)
            direction_N2 = direction_N2 / direction_N2.abs().amax(-1, keepdim=True)
            distance_P = torch.arange(1, self.num_points + 1, dtype=torch.float32, device=bias.device)
            offset_NP2 = direction_N2[:, None] * distance_P[:, None]
            bias.copy_(offset_NP2[:, None].expand(-1, self.num_levels, -1, -1).flatten())
        nn.init.zeros_(self.attention_weights.weight)
        nn.init.zeros_(self.attention_weights.bias)
        for linear in (self.value_proj, self.output_proj):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)

    def forward(self, query_BQC: Tensor, reference_BQLx: Tensor, value_BSC: Tensor, layout: PyramidLayout) -> Tensor:
        """Attend from the queries to the pyramid.

        Args:
            query_BQC: content plus position.
            reference_BQLx: (B, Q, L, 2) points or (B, Q, L, 4) boxes in the coordinates of each padded level, see
                :meth:`PyramidLayout.to_levels`. Offsets from a point are in cells of the level; offsets from a box are
                in halves of its size, shared among the points.
            value_BSC: tokens; those on padding count as zeros.
            layout: geometry of the tokens.

        Returns:
            (B, Q, C).
        """
        return self.output_proj(self.sample(query_BQC, reference_BQLx, value_BSC, layout))

    def sample(self, query_BQC: Tensor, reference_BQLx: Tensor, value_BSC: Tensor, layout: PyramidLayout) -> Tensor:
        """The same without the output projection."""
        value_BSC = self.value_proj(value_BSC)
        if layout.padding_BS is not None:
            value_BSC = value_BSC.masked_fill(layout.padding_BS[..., None], 0.0)
        value_BSND = value_BSC.unflatten(-1, (self.num_heads, -1))
        samples = (self.num_heads, self.num_levels, self.num_points)
        offsets_BQNLP2 = self.sampling_offsets(query_BQC).unflatten(-1, (*samples, 2))
        logits_BQNLP = self.attention_weights(query_BQC).unflatten(-1, samples)
        return ms_deform_attn_fused(value_BSND, layout.shapes, reference_BQLx, offsets_BQNLP2, logits_BQNLP)
