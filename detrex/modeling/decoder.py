"""The deformable transformer decoder with its heads (Deformable DETR, sections 4.1 and 4.2)."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from detrex.layers import FFN, MultiScaleDeformableAttention, apply_box_delta
from detrex.structures import Predictions, PyramidLayout, Queries, TokenPyramid

from .heads import DetectionHead
from .refinement import NoRefinement, RefinementPolicy

__all__ = ["DeformableDecoder", "DeformableDecoderLayer"]

POINT_SIZE_BIAS = -2.0  # initial logit of width and height where a reference has none
PADDED_LOGIT = -100.0  # class logit of a slot without a proposal: probability 0, loss 0, gradient 0


class DeformableDecoderLayer(nn.Module):
    """Self-attention among the queries, deformable cross-attention to the pyramid, FFN; LayerNorm after each."""

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
        self.self_attn = nn.MultiheadAttention(embed_dim, num_heads, dropout, batch_first=True)
        nn.init.xavier_uniform_(self.self_attn.out_proj.weight)
        self.self_attn_norm = nn.LayerNorm(embed_dim)
        self.cross_attn = MultiScaleDeformableAttention(
            embed_dim=embed_dim, num_heads=num_heads, num_levels=num_feature_levels, num_points=num_points
        )
        self.cross_attn_norm = nn.LayerNorm(embed_dim)
        self.ffn = FFN(embed_dim=embed_dim, feedforward_dim=feedforward_dim, dropout=dropout)
        self.ffn_norm = nn.LayerNorm(embed_dim)
        self.dropout = nn.Dropout(dropout, inplace=True)

    def forward(
        self,
        x_BQC: Tensor,
        queries: Queries,
        anchor_BQLx: Tensor,
        memory_BSC: Tensor,
        layout: PyramidLayout,
        mask_QQ: Tensor | None,
    ) -> Tensor:
        q_BQC = x_BQC + queries.pos_BQC
        attended, _ = self.self_attn(
            q_BQC, q_BQC, x_BQC, attn_mask=mask_QQ, key_padding_mask=queries.padding_BQ, need_weights=False
        )
        x_BQC = self.self_attn_norm(x_BQC + self.dropout(attended))
        attended = self.cross_attn(x_BQC + queries.pos_BQC, anchor_BQLx, memory_BSC, layout)
        x_BQC = self.cross_attn_norm(x_BQC + self.dropout(attended))
        return self.ffn_norm(x_BQC + self.dropout(self.ffn(x_BQC)))


class DeformableDecoder(nn.Module):
    """A stack of decoder layers. Each has a detection head; a refinement policy passes its boxes to the next layer.

    Args:
        num_layers: depth D.
        num_classes: K of the heads.
        refinement: references of the next layer; see :mod:`detrex.modeling.refinement`.
        embed_dim: channels C.
        num_heads: attention heads N.
        feedforward_dim: width of the FFN.
        num_feature_levels: levels L of the pyramid.
        num_points: sampling points P of each head and level.
        dropout: probability, in and after attention, inside and after the FFN.
        point_reference: queries start from points rather than boxes. It sets the heads' initial box size.
        inverse_sigmoid_eps: see :func:`detrex.layers.inverse_sigmoid`.
        use_checkpoint: recompute each layer in the backward pass: less memory, the same result.
    """

    def __init__(
        self,
        *,
        num_layers: int = 6,
        num_classes: int,
        refinement: RefinementPolicy | None = None,
        embed_dim: int = 256,
        num_heads: int = 8,
        feedforward_dim: int = 1024,
        num_feature_levels: int = 4,
        num_points: int = 4,
        dropout: float = 0.1,
        point_reference: bool = True,
        inverse_sigmoid_eps: float = 1e-5,
        use_checkpoint: bool = False,
    ):
        super().__init__()
        self.use_checkpoint = use_checkpoint
        self.refinement = refinement if refinement is not None else NoRefinement()
        self.inverse_sigmoid_eps = inverse_sigmoid_eps
        self.layers = nn.ModuleList(
            DeformableDecoderLayer(
                embed_dim=embed_dim,
                num_heads=num_heads,
                feedforward_dim=feedforward_dim,
                num_feature_levels=num_feature_levels,
                num_points=num_points,
                dropout=dropout,
            )
            for _ in range(num_layers)
        )

        self.point_reference = point_reference
        head = DetectionHead(embed_dim=embed_dim, num_classes=num_classes)
        # Heads that are not shared start equal, as published.
        copies = [head if self.refinement.shared_heads else copy.deepcopy(head) for _ in range(num_layers - 1)]
        self.heads = nn.ModuleList([head, *copies])
        if point_reference:
            nn.init.constant_(head.bbox_embed.layers[-1].bias[2:], POINT_SIZE_BIAS)

    def forward(self, queries: Queries, memory: TokenPyramid) -> tuple[Predictions, ...]:
        """Predictions of every layer, the last being final."""
        layout, x_BQC, mask_QQ = memory.layout, queries.content_BQC, queries.attention_mask_QQ()
        base = anchor = queries.reference
        predictions = []
        recompute = self.use_checkpoint and torch.is_grad_enabled()
        for index, (layer, head) in enumerate(zip(self.layers, self.heads, strict=True)):
            queries = self.position_queries(queries, x_BQC, anchor, index)
            arguments = (x_BQC, queries, layout.to_levels(anchor), memory.tokens_BSC, layout, mask_QQ)
            x_BQC = checkpoint(layer, *arguments, use_reentrant=False) if recompute else layer(*arguments)
            logits_BQK, delta_BQ4 = head(x_BQC)
            boxes_BQ4 = apply_box_delta(delta_BQ4, base, self.inverse_sigmoid_eps)
            predictions.append(self._mask(logits_BQK, boxes_BQ4, queries.padding_BQ))
            # The refined box differs from the prediction only in the path of its gradient.
            refined_BQ4 = boxes_BQ4 if base is anchor else apply_box_delta(delta_BQ4, anchor, self.inverse_sigmoid_eps)
            base, anchor = self.refinement(anchor, refined_BQ4)
        return tuple(predictions)

    def position_queries(self, queries: Queries, x_BQC: Tensor, anchor: Tensor, layer: int) -> Queries:
        """Prepare the queries for a layer. Override it to derive their position from the anchor, as DAB-DETR does.

        Args:
            queries: the queries of the previous layer.
            x_BQC: (B, Q, C) their content after the previous layer.
            anchor: points (B, Q, 2) or boxes (B, Q, 4) around which the layer samples.
            layer: index of the layer, from 0.

        Returns:
            The queries of this layer.
        """
        return queries

    @staticmethod
    def _mask(logits_BQK: Tensor, boxes_BQ4: Tensor, padding_BQ: Tensor | None) -> Predictions:
        if padding_BQ is not None:
            logits_BQK = torch.where(padding_BQ[..., None], logits_BQK.new_full((), PADDED_LOGIT), logits_BQK)
        return Predictions(logits_BQK, boxes_BQ4, padding_BQ)
