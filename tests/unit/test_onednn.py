"""oneDNN's linear layer against ``nn.Linear``."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from detrex.layers import onednn
from detrex.layers.onednn import OneDnnLinear, measure_onednn_linear, prefers_onednn_linear

pytestmark = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this torch has no oneDNN")


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(7, 16), (2, 5, 16), (2, 3, 4, 16), (0, 16)])
def test_values_and_gradients(shape, bias, monkeypatch):
    monkeypatch.setattr(onednn, "CHUNK", 3)  # several chunks, the last one shorter
    torch.manual_seed(0)
    usual = nn.Linear(16, 24, bias=bias)
    other = OneDnnLinear(usual)
    x = torch.randn(*shape, requires_grad=True)
    results = []
    for layer in (usual, other):
        usual.zero_grad()
        x.grad = None
        y = layer(x)
        y.sin().sum().backward()
        results.append([y, x.grad, *(parameter.grad for parameter in usual.parameters())])
    torch.testing.assert_close(results[1], results[0], rtol=1e-5, atol=1e-5)
    with torch.no_grad():
        torch.testing.assert_close(other(x), results[0][0], rtol=1e-5, atol=1e-5)


def test_strided_input_and_change_in_place():
    torch.manual_seed(0)
    usual = nn.Linear(16, 8)
    x = torch.randn(4, 16, 6).transpose(1, 2)
    assert not x.is_contiguous()
    expected = usual(x).relu()
    torch.testing.assert_close(OneDnnLinear(usual)(x).relu_(), expected, rtol=1e-5, atol=1e-5)


def test_other_precisions_go_the_usual_way():
    usual = nn.Linear(16, 8)
    x = torch.randn(4, 16)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(OneDnnLinear(usual)(x), usual(x))
        assert OneDnnLinear(usual)(x).dtype == torch.bfloat16
    usual.double()
    assert torch.equal(OneDnnLinear(usual)(x.double()), usual(x.double()))


def test_the_probe_says_no_where_the_operator_fails(monkeypatch):
    def broken(*args):
        raise RuntimeError("no kernel")

    measure = measure_onednn_linear.__wrapped__  # past the cache
    monkeypatch.setattr(onednn, "_linear", broken)
    assert measure() is False
    monkeypatch.setattr(onednn, "_linear", lambda x, weight, bias: None)  # at once
    assert measure() is True


@pytest.mark.parametrize(
    ("capability", "vendor", "expected"),
    [
        ("AVX512", "AuthenticAMD", True),
        ("AVX512_BF16", "AuthenticAMD", True),
        ("AVX512", "GenuineIntel", False),  # MKL has code for these
        ("AVX2", "AuthenticAMD", False),
        ("DEFAULT", "", False),
    ],
)
def test_the_rule_knows_the_processor_and_no_stopwatch(monkeypatch, capability, vendor, expected):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: True)
    monkeypatch.setattr(onednn, "_cpu_vendor", lambda: vendor)
    monkeypatch.setattr(onednn, "_time", lambda run: pytest.fail("measured"))
    assert prefers_onednn_linear() is expected
