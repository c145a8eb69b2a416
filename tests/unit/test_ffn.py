"""ReLU and dropout of the FFN keep one tensor for the backward pass; gradients are those of the plain composition."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from detrex.layers import FFN


def make(dropout: float) -> FFN:
    torch.manual_seed(0)
    return FFN(embed_dim=16, feedforward_dim=32, dropout=dropout)


def saved_bytes(ffn: FFN, x: torch.Tensor) -> int:
    """Of distinct tensors, parameters left out, that the backward pass needs."""
    parameters = {p.data_ptr() for p in ffn.parameters()}
    found: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.data_ptr() not in parameters:
            found[tensor.data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        keep = ffn(x)  # while it lives, no address is used twice
    del keep
    return sum(found.values())


def test_gradients_are_those_of_relu_and_the_dropped_units():
    ffn, x = make(0.3).train(), torch.randn(2, 50, 16, requires_grad=True)
    hidden = []
    handle = ffn.linear2.register_forward_pre_hook(lambda module, inputs: hidden.append(inputs[0].detach()))
    ffn(x).square().sum().backward()
    actual = [x.grad.clone(), *(p.grad.clone() for p in ffn.parameters())]
    handle.remove()

    active = F.relu(ffn.linear1(x))
    kept = (hidden[0] > 0) | (active == 0)
    torch.testing.assert_close(hidden[0], active.detach() * kept / 0.7)
    assert kept[active > 0].float().mean() == pytest.approx(0.7, abs=0.05)

    x.grad = None
    ffn.zero_grad()
    ffn.linear2(active * kept / 0.7).square().sum().backward()
    for mine, expected in zip(actual, [x.grad, *(p.grad for p in ffn.parameters())], strict=True):
        torch.testing.assert_close(mine, expected)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_evaluation_drops_nothing(dropout):
    ffn, x = make(dropout).eval(), torch.randn(3, 16)
    assert torch.equal(ffn(x), ffn.linear2(F.relu(ffn.linear1(x))))


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_backward_keeps_the_input_and_one_hidden_tensor(dropout):
    x = torch.randn(100, 16)
    assert saved_bytes(make(dropout).train(), x) == 4 * 100 * (16 + 32)


def test_everything_may_be_dropped():
    ffn, x = make(1.0).train(), torch.randn(3, 16, requires_grad=True)
    ffn(x).sum().backward()
    assert not x.grad.any()
