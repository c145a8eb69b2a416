"""Argument checks of the public functions: one exact message for each way to get a call wrong."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


def normalise_spatial_shapes(spatial_shapes: Sequence[Sequence[int]]) -> list[tuple[int, int]]:
    """(H, W) pairs of Python (or symbolic) ints.

    Raises:
        TypeError: for a tensor. Reading it would synchronise with its device in every call.
        ValueError: for anything else that is not pairs.
    """
    if isinstance(spatial_shapes, Tensor):
        raise TypeError(
            "spatial_shapes must be a sequence of (height, width) pairs of Python ints, not a tensor: that would be "
            "read back from its device in every call. Pass [tuple(map.shape[-2:]) for map in feature_maps], or "
            "spatial_shapes.tolist() where nothing better is known."
        )
    pairs = [_checked_pair(level, shape) for level, shape in enumerate(spatial_shapes)]
    if not pairs:
        raise ValueError("spatial_shapes is empty: at least one level is needed")
    return pairs


def _checked_pair(level: int, shape: Sequence[int]) -> tuple[int, int]:
    pair = tuple(shape) if isinstance(shape, Sequence) else (shape,)
    if len(pair) != 2:
        raise ValueError(f"spatial_shapes[{level}] must be (height, width), got {pair}")
    if any(isinstance(size, (float, str, bytes)) or size is None for size in pair):
        raise TypeError(f"spatial_shapes[{level}] must be ints, got {pair}")
    if pair[0] < 1 or pair[1] < 1:
        raise ValueError(f"spatial_shapes[{level}] must be positive, got {pair}")
    return pair


def check_value(value: Tensor, shapes: list[tuple[int, int]]) -> None:
    """Shape (B, S, N, D), a floating dtype, and S = sum of H * W."""
    if value.dim() != 4:
        raise ValueError(f"value must have shape (batch, tokens, heads, channels per head), got {tuple(value.shape)}")
    if value.dtype not in FLOATS:
        raise TypeError(f"value must be float32, float64, float16 or bfloat16, got {value.dtype}")
    _check_dense("value", value)
    if value.shape[2] < 1 or value.shape[3] < 1:
        raise ValueError(f"value needs at least one head and one channel per head, got {tuple(value.shape)}")
    tokens = sum(height * width for height, width in shapes)
    if tokens != value.shape[1]:
        raise ValueError(
            f"spatial_shapes {shapes} add up to {tokens} tokens, but value has {value.shape[1]}: {tuple(value.shape)}"
        )


def check_samples(value: Tensor, levels: int, samples: Tensor, weights: Tensor, *, names: tuple[str, str]) -> None:
    """``samples`` (B, Q, N, L, P, 2) and ``weights`` (B, Q, N, L, P) against the value and the number of levels."""
    batch, _, heads, _ = value.shape
    sample_name, weight_name = names
    if samples.dim() != 6 or samples.shape[-1] != 2:
        raise ValueError(
            f"{sample_name} must have shape (batch, queries, heads, levels, points, 2), got {tuple(samples.shape)}"
        )
    _check_axis(sample_name, samples, 0, "batch", batch)
    _check_axis(sample_name, samples, 2, "heads", heads)
    _check_axis(sample_name, samples, 3, "levels", levels)
    if samples.shape[4] < 1:
        raise ValueError(f"{sample_name} needs at least one point per level, got {tuple(samples.shape)}")
    if weights.shape != samples.shape[:-1]:
        raise ValueError(
            f"{weight_name} must have the shape of {sample_name} without its last axis, {tuple(samples.shape[:-1])}, "
            f"got {tuple(weights.shape)}"
        )
    check_like_value(value, samples, sample_name)
    check_like_value(value, weights, weight_name)


def check_reference_points(value: Tensor, levels: int, reference: Tensor, samples: Tensor) -> None:
    """``reference`` (B, Q, L, 2 or 4) against the value, the levels and the offsets' number of queries."""
    if reference.dim() != 4 or reference.shape[-1] not in (2, 4):
        raise ValueError(
            f"reference_points must have shape (batch, queries, levels, 2 or 4), got {tuple(reference.shape)}"
        )
    _check_axis("reference_points", reference, 0, "batch", value.shape[0])
    _check_axis("reference_points", reference, 1, "queries", samples.shape[1])
    _check_axis("reference_points", reference, 2, "levels", levels)
    check_like_value(value, reference, "reference_points")


def check_like_value(value: Tensor, tensor: Tensor, name: str) -> None:
    """The same device, a dense layout, and a dtype that can be combined with that of the value."""
    _check_dense(name, tensor)
    if tensor.device != value.device:
        raise ValueError(f"{name} is on {tensor.device}, but value is on {value.device}")
    wide = torch.float64 if value.dtype == torch.float64 else torch.float32
    if tensor.dtype not in (wide, value.dtype):
        allowed = str(wide) if wide == value.dtype else f"{wide} or {value.dtype}"
        raise TypeError(f"{name} must be {allowed} beside a value of {value.dtype}, got {tensor.dtype}")


def _check_dense(name: str, tensor: Tensor) -> None:
    if tensor.layout != torch.strided:
        raise TypeError(f"{name} must be a dense tensor, got {tensor.layout}: use {name}.to_dense()")


def _check_axis(name: str, tensor: Tensor, axis: int, label: str, expected: int) -> None:
    if tensor.shape[axis] != expected:
        raise ValueError(f"{name} has {tensor.shape[axis]} {label} (axis {axis}), expected {expected}")
