"""All of a program in float64, also where its code says float32: to tell other formulas from other rounding."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

FLOAT32, FLOAT64 = torch.float32, torch.float64


def in_float64() -> None:
    """From now on float32 means float64 in this process."""
    torch.set_default_dtype(FLOAT64)
    torch.float32 = torch.float = FLOAT64
    torch.Tensor.float = torch.Tensor.double


@contextlib.contextmanager
def original_dtypes() -> Iterator[None]:
    """Files name the types of their tensors, and must name them rightly."""
    changed = torch.float32
    torch.float32 = torch.float = FLOAT32
    try:
        yield
    finally:
        torch.float32 = torch.float = changed
