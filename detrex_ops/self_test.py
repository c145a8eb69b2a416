"""A comparison with the reference before a device's first result is used: a wrong or missing kernel raises, at once."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

from detrex_ops.kernels import REFERENCE, Arguments, Implementation

SHAPES = [7, 5, 3, 4, 1, 1]
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 2e-2}


def self_test(implementation: Implementation, device: torch.device) -> None:
    """Forward and backward, plain and fused, in float32 and bfloat16, on a few dozen samples.

    Raises:
        RuntimeError: naming what differs from the reference, or what the kernel raised.
    """
    if device.type == "cuda" and torch.cuda.is_current_stream_capturing():
        return
    # The caller may be tracing, under autocast or in inference mode; the test's tensors are its own.
    autocast_off = torch.autocast(device.type, enabled=False)
    with _not_traced(), _disable_current_modes(), torch.inference_mode(False), torch.no_grad(), autocast_off:
        for dtype in TOLERANCE:
            for reference_size in (0, 2, 4):
                _compare(implementation, _arguments(device, dtype, reference_size), dtype)


@contextlib.contextmanager
def _not_traced() -> Iterator[None]:
    """Suspends ``torch.jit.trace``, in which sizes are tensors."""
    state = torch._C._get_tracing_state()
    if state is None:
        yield
        return
    torch._C._set_tracing_state(None)
    try:
        yield
    finally:
        torch._C._set_tracing_state(state)


def _compare(implementation: Implementation, arguments: Arguments, dtype: torch.dtype) -> None:
    grad_output = _waves(arguments.new_output().shape, 0.9, arguments.value.device).to(dtype)
    fused = arguments.reference_points is not None
    try:
        actual = [implementation.forward(arguments), *implementation.backward(grad_output, arguments, fused)]
    except Exception as error:
        raise RuntimeError(f"{_title(implementation, arguments)} fails: {error}. {_ADVICE}") from error
    expected = [REFERENCE.forward(arguments), *REFERENCE.backward(grad_output, arguments, fused)]
    names = ("output", *(f"gradient of {name}" for name in ("value", "reference points", "samples", "weights")))
    for name, ours, theirs in zip(names, actual, expected, strict=True):
        if theirs is None:
            continue
        difference = (ours.double() - theirs.double()).abs().max() / theirs.double().abs().max()
        if not difference <= TOLERANCE[dtype]:
            raise RuntimeError(
                f"{_title(implementation, arguments)} differs from the reference: {name}, {dtype}, by {difference:.1e} "
                f"of its largest element. {_ADVICE}"
            )


_ADVICE = "Set DETREX_OPS=reference to train without the kernel, and report this with the output of detrex's doctor."


def _title(implementation: Implementation, arguments: Arguments) -> str:
    return f"detrex_ops' {implementation.name} kernel on {arguments.value.device}"


def _arguments(device: torch.device, dtype: torch.dtype, reference_size: int) -> Arguments:
    batch, queries, heads, levels, points, channels = 2, 5, 2, len(SHAPES) // 2, 2, 16
    tokens = sum(height * width for height, width in zip(SHAPES[::2], SHAPES[1::2], strict=True))
    value = _waves((batch, tokens, heads, channels), 0.37, device).to(dtype)
    samples = _waves((batch, queries, heads, levels, points, 2), 1.13, device)
    weights = _waves((batch, queries, heads, levels, points), 0.71, device)
    if reference_size == 0:
        return Arguments.of(value, SHAPES, None, samples * 0.6 + 0.5, weights)
    reference_points = _waves((batch, queries, levels, reference_size), 0.53, device) * 0.4 + 0.5
    return Arguments.of(value, SHAPES, reference_points, samples * 2, weights)


def _waves(shape: tuple[int, ...], step: float, device: torch.device) -> Tensor:
    """Numbers in [-1, 1] without a pattern, and without touching the random number generators."""
    count = torch.Size(shape).numel()
    return torch.sin(torch.arange(count, dtype=torch.float64) * step + step).float().to(device).view(shape)
