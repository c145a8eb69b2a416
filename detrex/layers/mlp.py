"""Small feed-forward blocks."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
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

    def __init__(self, *, embed_dim: int, feedforward_dim: int, dropout: float):
        super().__init__()
        self.linear1 = nn.Linear(embed_dim, feedforward_dim)
        self.linear2 = nn.Linear(feedforward_dim, embed_dim)
        self.dropout = dropout
        for linear in (self.linear1, self.linear2):
            nn.init.xavier_uniform_(linear.weight)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.linear1(x)
        if self.training and self.dropout:
            return self.linear2(_ReluDropout.apply(hidden, self.dropout))
        return self.linear2(F.relu(hidden, inplace=True))

    def extra_repr(self) -> str:
        return f"dropout={self.dropout}"


class _ReluDropout(torch.autograd.Function):
    """ReLU and dropout. Backward needs the output alone, which the next layer keeps anyway: no mask, no input."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, probability: float) -> Tensor:
        output = torch.native_dropout(x, probability, True)[0].relu_()
        ctx.save_for_backward(output)
        ctx.scale = 1 / (1 - probability) if probability < 1 else 0.0
        return output

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (output,) = ctx.saved_tensors
        return torch.where(output > 0, grad * ctx.scale, 0), None
