"""Which implementation runs on a device, how to force one, and the self-test at a device's first use."""

from __future__ import annotations

import functools
import importlib.util
import os

import torch

from detrex_ops.extension import build_report, load_extension
from detrex_ops.kernels import CPU, CUDA, REFERENCE, Implementation
from detrex_ops.self_test import self_test

VARIABLE = "DETREX_OPS"
CHOICES = ("auto", "require", "reference", "cpu", "cuda", "triton")


def backend(device: torch.device | str | int) -> str:
    """``"cuda"``, ``"triton"``, ``"cpu"`` or ``"reference"``: what runs on ``device``.

    The environment variable ``DETREX_OPS`` decides: ``auto`` (or unset) takes the fastest that is there, ``require`` is
    an error where that is the reference, and a backend's name takes it on the devices that it can serve. The first call
    for a device compares the kernels with the reference there.

    Raises:
        ValueError: for an unknown value of ``DETREX_OPS``.
        RuntimeError: where the backend asked for is missing, or where a kernel fails the self-test.
    """
    return implementation(torch.device(device)).name


def implementation(device: torch.device) -> Implementation:
    """The forward and backward functions behind :func:`backend`."""
    return _select(device.type, device.index, os.environ.get(VARIABLE, "") or "auto")


@functools.cache
def _select(device_type: str, index: int | None, choice: str) -> Implementation:
    if choice not in CHOICES:
        raise ValueError(f"{VARIABLE}={choice}: expected one of {', '.join(CHOICES)}")
    candidates = available(device_type)
    names = [candidate.name for candidate in candidates]
    if choice in _served(device_type) and choice not in names:
        raise RuntimeError(f"{VARIABLE}={choice}, but this installation has no such kernel.\n{build_report()}")
    if choice in names:
        selected = candidates[names.index(choice)]
    else:
        selected = candidates[0]
    if choice == "require" and selected is REFERENCE:
        raise RuntimeError(f"{VARIABLE}=require, but no kernel serves {device_type}.\n{build_report()}")
    if selected is not REFERENCE:
        self_test(selected, torch.device(device_type, index) if index is not None else torch.device(device_type))
    return selected


def _served(device_type: str) -> tuple[str, ...]:
    return {"cpu": ("cpu",), "cuda": ("cuda", "triton")}.get(device_type, ())


def available(device_type: str) -> list[Implementation]:
    """Fastest first; the reference always comes last."""
    found = []
    if device_type == "cpu" and load_extension("cpu"):
        found.append(CPU)
    if device_type == "cuda":
        if load_extension("cuda"):
            found.append(CUDA)
        if importlib.util.find_spec("triton") is not None:
            from detrex_ops.triton_kernels import TRITON

            found.append(TRITON)
    return [*found, REFERENCE]
