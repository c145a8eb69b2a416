"""A detector prepared for inference: the same outputs, faster. Every lever is a switch of its own."""

from __future__ import annotations

import copy
import logging
import time
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detrex.modeling.encoder import DeformableEncoderLayer
from detrex.structures import PyramidLayout

__all__ = ["LEVERS", "accelerate", "onednn_linear_is_faster"]

logger = logging.getLogger(__name__)

CHUNK = 2048  # rows of tokens: with an FFN of 1024 channels they take 8 MiB, which stay in the cache


def accelerate(model: nn.Module, levers: Sequence[str] | None = None) -> nn.Module:
    """A copy of the model for inference alone, in evaluation mode and without gradients.

    Args:
        model: a detector with ``backbone``, ``neck`` and ``transformer``.
        levers: names out of :data:`LEVERS`; None pulls all of them. One that does not apply to the model's device or
            parts changes nothing.

    Returns:
        The copy. Its outputs are those of the model up to rounding.

    Raises:
        ValueError: for an unknown lever.
    """
    levers = list(LEVERS) if levers is None else list(levers)
    unknown = [name for name in levers if name not in LEVERS]
    if unknown:
        raise ValueError(f"unknown levers {unknown}; there are {', '.join(LEVERS)}")
    model = copy.deepcopy(model).eval().requires_grad_(False)
    for name, pull in LEVERS.items():
        if name in levers:
            logger.info("accelerate: %s: %s", name, pull(model))
    return model


# convolutions ------------------------------------------------------------------------
@torch.no_grad()
def fold_norms(model: nn.Module) -> str:
    """Multiply the scale of BatchNorm, frozen or not, into the convolution before it."""
    folded = 0
    for conv in model.modules():
        norm = getattr(conv, "norm", None)
        if not isinstance(conv, nn.Conv2d) or not hasattr(norm, "running_var"):
            continue
        scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
        shift = norm.bias - norm.running_mean * scale
        bias = shift if conv.bias is None else shift + conv.bias * scale
        conv.weight = nn.Parameter(conv.weight * scale[:, None, None, None], requires_grad=False)
        conv.bias = nn.Parameter(bias, requires_grad=False)
        conv.norm = None
        folded += 1
    return f"{folded} convolutions"


def channels_last(model: nn.Module) -> str:
    """Keep maps as (B, H, W, C) in memory: what convolutions prefer, and what tokens are."""
    for part in (model.backbone, model.neck):
        part.to(memory_format=torch.channels_last)
    return "backbone and neck"


# linear layers ------------------------------------------------------------------------
class OneDnnLinear(nn.Module):
    """``nn.Linear`` through oneDNN's matrix product; float32 on CPUs, without gradients."""

    def __init__(self, linear: nn.Linear):
        super().__init__()
        self.weight, self.bias = linear.weight, linear.bias

    def forward(self, x: Tensor) -> Tensor:
        return _onednn_linear(x, self.weight, self.bias)


def _onednn_linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    if x.dtype != torch.float32 or torch.is_autocast_enabled("cpu") or torch.is_grad_enabled():
        return F.linear(x, weight, bias)
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


def onednn_linear_is_faster(rows: int = 4096, channels: int = 256, margin: float = 1.2) -> bool:
    """Measure whether oneDNN beats what ``F.linear`` calls (MKL, which prefers its maker's processors). Takes 20 ms."""
    if not torch.backends.mkldnn.is_available() or not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return False
    generator = torch.Generator().manual_seed(0)
    x, weight = (torch.randn(n, channels, generator=generator) for n in (rows, channels))
    bias = torch.zeros(channels)
    try:
        with torch.no_grad():
            usual, other = (_best_time(lambda f=f: f(x, weight, bias)) for f in (F.linear, _onednn_linear))
    except (RuntimeError, NotImplementedError):
        return False
    return other * margin < usual


def _best_time(run: Callable[[], object], repeats: int = 7) -> float:
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times)


def onednn_linear(model: nn.Module) -> str:
    """Send linear layers through oneDNN where a measurement says that this is faster here."""
    if next(model.parameters()).device.type != "cpu" or not onednn_linear_is_faster():
        return "not faster on this machine"
    return f"{_replace(model, nn.Linear, OneDnnLinear)} linear layers"


# encoder ------------------------------------------------------------------------
class ChunkedEncoderLayer(nn.Module):
    """An encoder layer whose part after the sampling goes through a few tokens at a time, so that they stay cached."""

    def __init__(self, layer: DeformableEncoderLayer):
        super().__init__()
        self.layer = layer

    def forward(self, x_BSC: Tensor, pos_BSC: Tensor, centres_BSL2: Tensor, layout: PyramidLayout) -> Tensor:
        """See :class:`DeformableEncoderLayer`."""
        layer = self.layer
        sampled = layer.self_attn.sample(x_BSC + pos_BSC, centres_BSL2, x_BSC, layout).flatten(0, 1)
        x, result = x_BSC.flatten(0, 1), torch.empty_like(sampled)
        for start in range(0, len(x), CHUNK):
            rows = slice(start, start + CHUNK)
            chunk = layer.self_attn_norm(layer.self_attn.output_proj(sampled[rows]).add_(x[rows]))
            result[rows] = layer.ffn_norm(layer.ffn(chunk).add_(chunk))
        return result.view_as(x_BSC)


def chunked_encoder(model: nn.Module) -> str:
    """See :class:`ChunkedEncoderLayer`; for CPUs."""
    if next(model.parameters()).device.type != "cpu":
        return "for CPUs"
    return f"{_replace(model, DeformableEncoderLayer, ChunkedEncoderLayer)} layers"


def _replace(model: nn.Module, old: type[nn.Module], new: Callable[[nn.Module], nn.Module]) -> int:
    """Replace the children that are exactly of a type, not of a subclass; how many."""
    found = [
        (parent, name, child)
        for parent in model.modules()
        for name, child in parent.named_children()
        if type(child) is old
    ]
    for parent, name, child in found:
        setattr(parent, name, new(child))
    return len(found)


# In the order in which they are pulled.
LEVERS: dict[str, Callable[[nn.Module], str]] = {
    "fold_norms": fold_norms,
    "channels_last": channels_last,
    "onednn_linear": onednn_linear,
    "chunked_encoder": chunked_encoder,
}
