"""Convolution with its norm and activation, and small tensor helpers."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

BatchNorm2d = nn.BatchNorm2d
ConvTranspose2d = nn.ConvTranspose2d
Linear = nn.Linear
interpolate = F.interpolate


class Conv2d(nn.Conv2d):
    """``torch.nn.Conv2d`` followed by an optional norm and an optional activation.

    Its parameters are ``weight``, ``bias`` and, below ``norm.``, those of the norm.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """
        Args:
            norm: keyword; module applied to the output, or None.
            activation: keyword; callable applied last, or None.
            args, kwargs: as ``torch.nn.Conv2d``.
        """
        norm, activation = kwargs.pop("norm", None), kwargs.pop("activation", None)
        super().__init__(*args, **kwargs)
        self.norm = norm
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C', H', W')."""
        if self.training and x.numel() == 0 and isinstance(self.norm, nn.SyncBatchNorm):
            raise AssertionError("SyncBatchNorm does not support empty inputs")
        x = super().forward(x)
        if self.norm is not None:
            x = self.norm(x)
        return x if self.activation is None else self.activation(x)


def cat(tensors: Sequence[Tensor], dim: int = 0) -> Tensor:
    """``torch.cat`` that returns a single tensor itself instead of a copy."""
    assert isinstance(tensors, (list, tuple)), f"cat needs a list or tuple, got {type(tensors)}"
    return tensors[0] if len(tensors) == 1 else torch.cat(tensors, dim)


def nonzero_tuple(x: Tensor) -> tuple[Tensor, ...]:
    """Indices of the nonzero elements, one vector per dimension."""
    return x.nonzero(as_tuple=True)


def move_device_like(src: Tensor, dst: Tensor) -> Tensor:
    """``src`` on the device of ``dst``."""
    return src.to(dst.device)


def shapes_to_tensor(x: Sequence[int], device: torch.device | None = None) -> Tensor:
    """A vector of sizes; while tracing the sizes are tensors and stay part of the graph."""
    if torch.jit.is_tracing():
        return torch.stack([torch.as_tensor(size) for size in x]).to(device)
    return torch.as_tensor(x, device=device)


def cross_entropy(input: Tensor, target: Tensor, *, reduction: str = "mean", **kwargs: Any) -> Tensor:
    """``F.cross_entropy`` that gives 0 instead of NaN, with a gradient path, when there is no target."""
    if target.numel() == 0 and reduction == "mean":
        return input.sum() * 0.0
    return F.cross_entropy(input, target, reduction=reduction, **kwargs)
