"""Linear layers through oneDNN's matrix product, which on some processors is twice as fast as what torch calls."""

from __future__ import annotations

import contextlib
import functools
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

__all__ = ["OneDnnLinear", "measure_onednn_linear", "onednn_linear_is_available", "prefers_onednn_linear"]

REPEATS = 7  # of a measurement, in turns; the best counts
CHUNK = 2048  # rows that are transposed at once for the gradient of a weight; they stay in the cache


class OneDnnLinear(nn.Module):
    """``nn.Linear`` with the same parameters under the same names.

    oneDNN serves float32 on CPUs; everything else, autocast and compiled graphs included, goes the usual way.

    Args:
        linear: the layer whose parameters it takes over.
    """

    def __init__(self, linear: nn.Linear):
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.weight, self.bias = linear.weight, linear.bias

    def forward(self, x: Tensor) -> Tensor:
        """(..., in_features) -> (..., out_features)."""
        usual = x.dtype != torch.float32 or x.device.type != "cpu" or torch.is_autocast_enabled("cpu")
        if usual or x.numel() == 0 or torch.compiler.is_compiling():
            return F.linear(x, self.weight, self.bias)
        if not torch.is_grad_enabled():
            return _linear(x, self.weight, self.bias)
        # The view is made out here, where autograd lets it be changed in place.
        return _Linear.apply(x.flatten(0, -2), self.weight, self.bias).view(*x.shape[:-1], self.out_features)

    def usual(self) -> nn.Linear:
        """The layer that this one took the place of."""
        linear = nn.Linear(self.in_features, self.out_features, bias=self.bias is not None, device="meta")
        linear.weight, linear.bias = self.weight, self.bias
        return linear.train(self.training)

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


class _Linear(torch.autograd.Function):
    """(R, I) rows, (O, I) weight, (O,) bias -> (R, O)."""

    @staticmethod
    def forward(ctx: Any, x_RI: Tensor, weight_OI: Tensor, bias_O: Tensor | None) -> Tensor:
        ctx.save_for_backward(x_RI, weight_OI)
        return _linear(x_RI, weight_OI, bias_O)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_RO: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x_RI, weight_OI = ctx.saved_tensors
        needs_x, needs_weight, needs_bias = ctx.needs_input_grad
        return (
            _linear(grad_RO, weight_OI.t().contiguous(), None) if needs_x else None,
            _weight_gradient(grad_RO, x_RI) if needs_weight else None,
            grad_RO.sum(0) if needs_bias else None,
        )


def _weight_gradient(grad_RO: Tensor, x_RI: Tensor) -> Tensor:
    """grad^T x, the transposes that oneDNN wants made a few rows at a time."""
    total_OI = None
    for grad, x in zip(grad_RO.split(CHUNK), x_RI.split(CHUNK), strict=True):
        part = _linear(grad.t().contiguous(), x.t().contiguous(), None)
        total_OI = part if total_OI is None else total_OI.add_(part)
    return total_OI


def onednn_linear_is_available() -> bool:
    """Whether this torch has oneDNN, and its linear operator under the name that is used here."""
    return torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def prefers_onednn_linear() -> bool:
    """Whether oneDNN is the faster one on this processor, by rule: AVX-512, and not made by Intel.

    ``F.linear`` calls MKL, which has AVX-512 code for its maker's processors only. With AVX2 alone they are about as
    fast as each other; see docs/decisions/0037-onednn-by-rule.md for the measurements.
    """
    avx512 = torch.backends.mkl.is_available() and torch.backends.cpu.get_cpu_capability().startswith("AVX512")
    return avx512 and "Intel" not in _cpu_vendor() and onednn_linear_is_available()


def _cpu_vendor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("vendor_id"):
                return line.partition(":")[2].strip()
    return platform.processor()  # on Windows "AMD64 Family 25 Model 33 Stepping 0, AuthenticAMD"


@functools.cache
def measure_onednn_linear(rows: int = 4096, channels: int = 256, margin: float = 1.2) -> bool:
    """Measure once whether oneDNN is the faster one; on a busy machine the answer may change from run to run.

    Takes some 20 ms. The answer is no where there is no such operator.
    """
    if not onednn_linear_is_available():
        return False
    generator = torch.Generator().manual_seed(0)
    x, weight = (torch.randn(n, channels, generator=generator) for n in (rows, channels))
    bias = torch.zeros(channels)
    try:
        with torch.no_grad():
            times = [[_time(lambda f=f: f(x, weight, bias)) for f in (_linear, F.linear)] for _ in range(REPEATS)]
    except (RuntimeError, TypeError):  # another signature, or none for this processor
        return False
    other, usual = (min(column) for column in zip(*times, strict=True))
    return other * margin < usual


def _time(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start
