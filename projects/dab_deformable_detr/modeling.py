"""Queries that are anchor boxes (Liu et al., "DAB-DETR", ICLR 2022, arXiv 2201.12329, sections 4.2 and 4.3)."""

from __future__ import annotations

import functools
from dataclasses import replace

import torch
from torch import Tensor, nn

from detrex.layers import MLP, sine_embed
from detrex.modeling import DeformableDecoder, QueryGroups
from detrex.structures import Queries, TokenPyramid

__all__ = ["AnchorDecoder", "AnchorQueries"]

SIZE_LOGIT = -2.0  # initial width and height of the anchors: 0.12 of the image


class AnchorQueries(nn.Module):
    """A learned box and a learned content for each query; the position embedding follows from the box.

    Args:
        groups: the query budget.
        embed_dim: channels C.
    """

    point_reference = False

    def __init__(self, *, groups: QueryGroups, embed_dim: int = 256):
        super().__init__()
        self.groups = groups
        self.anchors = nn.Embedding(groups.capacity, 4)  # logits of cxcywh
        self.content = nn.Embedding(groups.capacity, embed_dim)
        nn.init.uniform_(self.anchors.weight[:, :2], -3.0, 3.0)
        nn.init.constant_(self.anchors.weight[:, 2:], SIZE_LOGIT)

    def forward(self, memory: TokenPyramid) -> tuple[Queries, None]:
        """The same queries for every image; :class:`AnchorDecoder` fills in their position."""
        groups, batch_size = self.groups.active(self.training), len(memory.tokens_BSC)
        content_BQC = self.content.weight[: sum(groups)].expand(batch_size, -1, -1)
        boxes_BQ4 = self.anchors.weight[: sum(groups)].float().sigmoid().expand(batch_size, -1, -1)
        return Queries(content_BQC, torch.zeros_like(content_BQC), boxes_BQ4, groups), None


class AnchorDecoder(DeformableDecoder):
    """A decoder whose queries get their position anew in every layer, from the anchor that the layer looks around.

    The position is an MLP of the sine embedding of the box. From the second layer on, another MLP of the content
    scales it. The parameters are those of the base class.
    """

    @functools.wraps(DeformableDecoder.__init__)  # keeps the names that a config's keys are checked against
    def __init__(self, *, embed_dim: int = 256, **parameters):
        super().__init__(embed_dim=embed_dim, **parameters)
        self.embed_dim = embed_dim
        self.position = MLP(in_dim=2 * embed_dim, hidden_dim=embed_dim, out_dim=embed_dim, num_layers=2)
        self.modulation = MLP(in_dim=embed_dim, hidden_dim=embed_dim, out_dim=embed_dim, num_layers=2)

    def position_queries(self, queries: Queries, x_BQC: Tensor, anchor_BQ4: Tensor, layer: int) -> Queries:
        """The queries with the position embedding of their anchors."""
        embedding = sine_embed(anchor_BQ4, self.embed_dim // 2, temperature=20.0).flatten(-2)  # section 4.5
        pos_BQC = self.position(embedding.to(x_BQC.dtype))
        return replace(queries, pos_BQC=pos_BQC if layer == 0 else pos_BQC * self.modulation(x_BQC))
