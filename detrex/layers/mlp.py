"""Small feed-forward blocks."""

from __future__ import annotations

from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["FFN", "MLP"]


class MLP(nn.Module):
    """``num_layers`` linear layers with ReLU in between: (..., in_dim) -> (..., out_dim)."""

    def __init__(self, *, in_dim: int, hidden_dim: int, out_dim: int, num_layers: int):
        super().__init__()
        dims = [in_dim, *[hidden_dim] * (num_layers - 1), out_dim]
        self.layers = nn.ModuleList(nn.Linear(i, o) for i, o in pairwise(dims))

    def forward(self, x: Tensor) -> Tensor:
        *hidden, last = self.layers
        for layer in hidden:
            x = F.relu(layer(x), inplace=True)
        return last(x)


class FFN(nn.Module):
    """The transformer's two-layer perceptron, without residual and norm: (..., C) -> (..., C)."""

    def __init__(self, *, embed_dim: int, hidden_dim: int, dropout: float):
        super().__init__()
        self.linear1 = nn.Linear(embed_dim, hidden_dim)
        self.linear2 = nn.Linear(hidden_dim, embed_dim)
        self.dropout = nn.Dropout(dropout, inplace=True)
        for linear in (self.linear1, self.linear2):
            nn.init.xavier_uniform_(linear.weight)

    def forward(self, x: Tensor) -> Tensor:
        # Dropout and ReLU commute; in this order backward needs one tensor of this width fewer.
        return self.linear2(F.relu(self.dropout(self.linear1(x)), inplace=True))
