"""The FFN's order of operations is chosen for memory; its values and gradients are those of the textbook's order."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from detrex.layers import FFN


def textbook(ffn: FFN, x: torch.Tensor) -> torch.Tensor:
    return ffn.linear2(F.dropout(F.relu(ffn.linear1(x)), 0.3, ffn.training))


def run(function, ffn: FFN) -> list[torch.Tensor]:
    x = torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(1), requires_grad=True)
    ffn.zero_grad()
    torch.manual_seed(2)
    y = function(x)
    y.square().sum().backward()
    return [y, x.grad, *(parameter.grad.clone() for parameter in ffn.parameters())]


def test_values_and_gradients_are_those_of_dropout_after_relu():
    torch.manual_seed(0)
    ffn = FFN(embed_dim=16, hidden_dim=32, dropout=0.3)
    for training in (True, False):
        ffn.train(training)
        actual, expected = run(ffn, ffn), run(lambda x: textbook(ffn, x), ffn)
        assert all(torch.equal(a, b) for a, b in zip(actual, expected, strict=True))
    assert not torch.equal(run(ffn.train(), ffn)[0], run(ffn.eval(), ffn)[0])  # there is dropout
