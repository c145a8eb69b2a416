"""A detector made faster, its outputs the same up to rounding. Every optimization is a switch of its own."""

from __future__ import annotations

import copy
import ctypes
import logging
from collections.abc import Callable, Mapping, Sequence

import torch
from detectron2.utils import comm
from torch import Tensor, nn

from detrex.layers.onednn import (
    OneDnnLinear,
    measure_onednn_linear,
    onednn_linear_is_available,
    prefers_onednn_linear,
)
from detrex.modeling.encoder import DeformableEncoderLayer
from detrex.structures import PyramidLayout

__all__ = [
    "ONEDNN_CHOICES",
    "OPTIMIZATIONS",
    "TRAINING_OPTIMIZATIONS",
    "TrainingOptimizations",
    "keep_freed_memory",
    "optimize_model",
    "parse_optimizations",
]

logger = logging.getLogger(__name__)

M_MMAP_MAX, M_TRIM_THRESHOLD = -4, -1  # of mallopt(3)
CHUNK = 2048  # rows of tokens: with an FFN of 1024 channels they take 8 MiB, which stay in the cache


def optimize_model(
    model: nn.Module, optimizations: Sequence[str] | None = None, *, onednn: bool | None = None
) -> nn.Module:
    """Copy a model for inference, in evaluation mode and without gradients.

    Args:
        model: any model; the optimizations look for the parts of a detector.
        optimizations: names from ``OPTIMIZATIONS``; None enables all of them. One that does not apply to the
            model's device or parts changes nothing.
        onednn: whether ``onednn_linear`` takes effect; None: by the rule of ``prefers_onednn_linear``.

    Returns:
        The copy. Its outputs are those of the model up to rounding.

    Raises:
        ValueError: for an unknown optimization.
    """
    model = copy.deepcopy(model).eval().requires_grad_(False)
    _apply(model, OPTIMIZATIONS, optimizations, prefers_onednn_linear() if onednn is None else onednn)
    return model


class TrainingOptimizations:
    """Applies the optimizations that training can use too, to the model itself.

    Parameters stay the same objects under the same names: checkpoints and optimizers see no difference. Whether linear
    layers go through oneDNN is decided by the first process and kept in checkpoints: a resumed run, and its
    evaluations, compute as before on any machine.

    Args:
        model: as for :func:`optimize_model`.
        optimizations: names out of ``TRAINING_OPTIMIZATIONS``; None enables all of them.
        onednn: one of ``ONEDNN_CHOICES``.

    Attributes:
        onednn: what was decided, for evaluations too.

    Raises:
        ValueError: for an unknown optimization.
    """

    def __init__(self, model: nn.Module, optimizations: Sequence[str] | None = None, *, onednn: str = "auto"):
        self._model = model
        self._applies = optimizations is None or "onednn_linear" in optimizations
        self.onednn: bool = comm.all_gather(ONEDNN_CHOICES[onednn]())[0]
        _apply(model, TRAINING_OPTIMIZATIONS, optimizations, self.onednn)

    def state_dict(self) -> dict[str, bool]:
        """What was decided."""
        return {"onednn_linear": self.onednn}

    def load_state_dict(self, state_dict: Mapping[str, bool]) -> None:
        """Decide the same again; the layers follow where the config enables the optimization."""
        self.onednn = state_dict["onednn_linear"]
        if not self._applies:
            return
        if self.onednn:
            onednn_linear(self._model)
        else:
            _replace(self._model, OneDnnLinear, OneDnnLinear.usual)


def keep_freed_memory() -> bool:
    """Have this process keep the memory that it frees, for its next tensors.

    By default glibc returns every freed block above 32 MiB to the system, and the next tensor of that size pays for
    clearing fresh pages, as much as several passes over its values. What is kept shows as memory in use; where sizes
    vary, it may be some 1.5 times the peak. It holds for the whole process and cannot be undone.

    Returns:
        Whether it took effect: on Linux with glibc.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library, another system
        return False
    return bool(mallopt(M_MMAP_MAX, 0) and mallopt(M_TRIM_THRESHOLD, 2**31 - 1))


def parse_optimizations(value: str | Sequence[str], available: Mapping[str, object]) -> tuple[str, ...]:
    """Names of optimizations from a config's ``"all"``, ``"none"`` or list.

    Args:
        value: of the config. available: the optimizations that there are, by name.

    Raises:
        ValueError: for an unknown name.
    """
    if value in ("all", "none"):
        return tuple(available) if value == "all" else ()
    names = (value,) if isinstance(value, str) else tuple(value)
    unknown = [name for name in names if name not in available]
    if unknown:
        raise ValueError(f"unknown optimizations {unknown}; there are {', '.join(available)}")
    return names


def _apply(
    model: nn.Module,
    available: Mapping[str, Callable[[nn.Module], str]],
    optimizations: Sequence[str] | None,
    onednn: bool,
) -> None:
    names = tuple(available) if optimizations is None else parse_optimizations(optimizations, available)
    for name, optimize in available.items():
        if name in names:
            effect = optimize(model) if onednn or name != "onednn_linear" else "not faster on this processor"
            logger.info("optimization: %s: %s", name, effect)


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
    parts = [name for name in ("backbone", "neck") if hasattr(model, name)]
    for name in parts:
        getattr(model, name).to(memory_format=torch.channels_last)
    return ", ".join(parts) or "no backbone, no neck"


# linear layers ------------------------------------------------------------------------
def onednn_linear(model: nn.Module) -> str:
    """Send linear layers through oneDNN; for CPUs."""
    if next(model.parameters()).device.type != "cpu" or not onednn_linear_is_available():
        return "for CPUs, with a torch that has oneDNN"
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


# In the order in which they are applied.
OPTIMIZATIONS: dict[str, Callable[[nn.Module], str]] = {
    "fold_norms": fold_norms,
    "channels_last": channels_last,
    "onednn_linear": onednn_linear,
    "chunked_encoder": chunked_encoder,
}
TRAINING_OPTIMIZATIONS = {name: OPTIMIZATIONS[name] for name in ("channels_last", "onednn_linear")}
# train.optimizations.onednn_linear -> whether linear layers go through oneDNN on this machine.
ONEDNN_CHOICES: dict[str, Callable[[], bool]] = {
    "auto": prefers_onednn_linear,
    "always": onednn_linear_is_available,
    "measure": measure_onednn_linear,
}
