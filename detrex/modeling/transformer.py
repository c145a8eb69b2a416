"""The deformable transformer: feature maps in, predictions of every decoder layer out."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from detrex.layers import PositionEmbeddingSine
from detrex.structures import DetectorOutputs, PyramidLayout, TokenPyramid

from .decoder import DeformableDecoder
from .encoder import DeformableEncoder
from .queries import LearnedQueries, TwoStageQueries

__all__ = ["DeformableTransformer"]


class DeformableTransformer(nn.Module):
    """Deformable DETR's transformer, composed of the parts that make its variants.

    Args:
        position_embedding: embeds the tokens' positions.
        encoder: mixes the tokens.
        queries: learns the object queries or takes them from the encoder's proposals.
        decoder: turns queries into predictions.
        num_feature_levels: levels L of the pyramid.
        embed_dim: channels C of all parts.

    Raises:
        ValueError: if the parts contradict each other: boxes from proposals without refinement, or a decoder
            initialised for points that gets boxes, or the reverse.
    """

    def __init__(
        self,
        *,
        position_embedding: PositionEmbeddingSine,
        encoder: DeformableEncoder,
        queries: LearnedQueries | TwoStageQueries,
        decoder: DeformableDecoder,
        num_feature_levels: int = 4,
        embed_dim: int = 256,
    ):
        super().__init__()
        kind = "points" if queries.point_reference else "boxes"
        if queries.point_reference != decoder.point_reference:
            raise ValueError(
                f"{type(queries).__name__} refers to {kind}: set transformer.decoder.point_reference to "
                f"{queries.point_reference}"
            )
        if not queries.point_reference and decoder.refinement.shared_heads:
            raise ValueError(
                f"{type(queries).__name__} proposes boxes, which {type(decoder.refinement).__name__} would not refine: "
                "set transformer.decoder.refinement to IterativeRefinement or LookForwardTwice"
            )
        self.position_embedding = position_embedding
        self.level_embeds = nn.Parameter(torch.empty(num_feature_levels, embed_dim))
        nn.init.normal_(self.level_embeds)
        self.encoder, self.queries, self.decoder = encoder, queries, decoder

    def flatten(self, features: Sequence[Tensor], layout: PyramidLayout) -> TokenPyramid:
        """L maps (B, C, H, W) -> tokens (B, S, C) with the positions of their centres and levels."""
        tokens_BSC = torch.cat([feature.flatten(2).transpose(1, 2) for feature in features], 1)
        positions = zip(self.position_embedding(layout), self.level_embeds, strict=True)
        pos_BSC = torch.cat([pos_BTC + level_C for pos_BTC, level_C in positions], 1)
        return TokenPyramid(tokens_BSC, pos_BSC.to(tokens_BSC.dtype), layout)

    def forward(self, features: Sequence[Tensor], layout: PyramidLayout) -> DetectorOutputs:
        """Detect.

        Args:
            features: L maps (B, C, H, W), finest first. What stands on padding does not matter.
            layout: their geometry.
        """
        memory = self.encoder(self.flatten(features, layout))
        queries, proposals = self.queries(memory)
        return DetectorOutputs(self.decoder(queries, memory), queries.groups, proposals)
