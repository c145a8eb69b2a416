"""Where object queries come from: learned (one-stage) or proposed by the encoder (two-stage)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from detrex.layers import sine_embed
from detrex.structures import Predictions, PyramidLayout, Queries, TokenPyramid

from .proposals import EncoderProposals

__all__ = ["LearnedQueries", "QueryGroups", "TwoStageQueries"]


@dataclass(frozen=True)
class QueryGroups:
    """The query budget. ``one2many`` queries exist in training alone (H-DETR, section 3); 0 is plain DETR.

    Raises:
        ValueError: if ``one2one`` is not positive or ``one2many`` is negative.
    """

    one2one: int
    one2many: int = 0

    def __post_init__(self) -> None:
        if self.one2one < 1 or self.one2many < 0:
            raise ValueError(f"QueryGroups: need one2one >= 1 and one2many >= 0, got {self}")

    @property
    def capacity(self) -> int:
        """Number of query embeddings."""
        return self.one2one + self.one2many

    def active(self, training: bool) -> tuple[int, ...]:
        """Sizes of the groups that are decoded."""
        return (self.one2one, self.one2many) if training and self.one2many else (self.one2one,)


class LearnedQueries(nn.Module):
    """One-stage: content, position and reference points are all learned.

    Args:
        groups: the query budget.
        embed_dim: channels C.
    """

    point_reference = True

    def __init__(self, *, groups: QueryGroups, embed_dim: int = 256):
        super().__init__()
        self.groups = groups
        self.embedding = nn.Embedding(groups.capacity, 2 * embed_dim)
        self.reference_points = nn.Linear(embed_dim, 2)
        nn.init.xavier_uniform_(self.reference_points.weight)
        nn.init.zeros_(self.reference_points.bias)

    def forward(self, memory: TokenPyramid) -> tuple[Queries, None]:
        groups = self.groups.active(self.training)
        pos_QC, content_QC = self.embedding.weight[: sum(groups)].chunk(2, -1)
        reference_Q2 = self.reference_points(pos_QC).float().sigmoid()
        content, pos, reference = (
            x.expand(memory.tokens_BSC.shape[0], -1, -1) for x in (content_QC, pos_QC, reference_Q2)
        )
        return Queries(content, pos, reference, groups), None


class TwoStageQueries(nn.Module):
    """Two-stage: the encoder's best proposals become queries.

    Args:
        groups: the query budget. The first group takes the best proposals, the second the following ones.
        num_classes: K of the proposal head.
        content: ``"proposal"``: content and position are both projected from the proposal's box (Deformable DETR);
            ``"learned"``: mixed query selection (DINO, section 3.4), the content is learned.
        embed_dim: channels C.
        temperature: of the sine embedding of the boxes.

    Raises:
        ValueError: if ``content`` is neither.
    """

    point_reference = False

    def __init__(
        self,
        *,
        groups: QueryGroups,
        num_classes: int,
        content: Literal["proposal", "learned"] = "proposal",
        embed_dim: int = 256,
        temperature: float = 10000.0,
    ):
        super().__init__()
        if content not in ("proposal", "learned"):
            raise ValueError(f"TwoStageQueries: content must be 'proposal' or 'learned', got {content!r}")
        self.groups, self.embed_dim, self.temperature = groups, embed_dim, temperature
        self.proposals = EncoderProposals(embed_dim=embed_dim, num_classes=num_classes)
        self.pos_trans = nn.Linear(2 * embed_dim, 2 * embed_dim)
        self.pos_trans_norm = nn.LayerNorm(2 * embed_dim)
        nn.init.xavier_uniform_(self.pos_trans.weight)
        self.content = nn.Embedding(groups.capacity, embed_dim) if content == "learned" else None

    def forward(self, memory: TokenPyramid) -> tuple[Queries, Predictions]:
        """Queries at the best proposals, never at an invalid token, and the predictions of all tokens.

        An image with fewer proposals than queries gets fewer queries; beside a larger image, its slots are padded.
        """
        proposals, unactivated_BS4 = self.proposals(memory)
        scores_BS = proposals.logits_BQK[..., 0].detach().float()
        scores_BS = scores_BS.masked_fill(proposals.padding_BQ, float("-inf"))
        index_BQ, groups, padding_BQ = self.select(scores_BS, memory.layout)
        boxes_BQ4 = unactivated_BS4.detach().gather(1, index_BQ[..., None].expand(-1, -1, 4)).sigmoid()

        embedding = sine_embed(boxes_BQ4, self.embed_dim // 2, self.temperature).flatten(-2)
        pos_BQC, content_BQC = self.pos_trans_norm(self.pos_trans(embedding)).chunk(2, -1)
        if self.content is not None:
            content_BQC = self.content.weight[: index_BQ.shape[1]].expand_as(content_BQC)
        return Queries(content_BQC, pos_BQC, boxes_BQ4, groups, padding_BQ), proposals

    def select(self, scores_BS: Tensor, layout: PyramidLayout) -> tuple[Tensor, tuple[int, ...], Tensor | None]:
        """The best tokens, (B, Q), the sizes of the groups, and the slots (B, Q) that are padding, None if none is.

        Args:
            scores_BS: minus infinity on tokens that make no proposal.
            layout: of the tokens; it tells how many of them make proposals.
        """
        available = self.proposals.num_valid(layout)
        limit, groups = max(1, *available), []
        for size in self.groups.active(self.training):
            groups.append(min(size, limit - sum(groups)))
        num_queries, device = sum(groups), scores_BS.device
        index_BQ = scores_BS.topk(num_queries, dim=1).indices
        if all(n >= num_queries for n in available):
            return index_BQ, tuple(groups), None
        slot_Q = torch.arange(num_queries, device=device)
        return index_BQ, tuple(groups), slot_Q >= torch.tensor(available, device=device)[:, None]
