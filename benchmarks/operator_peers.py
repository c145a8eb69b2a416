"""Other implementations of the operator, each where it is installed.

Conversions that an implementation asks for (tensors of level sizes, 16-bit types, joined arguments) are made beforehand
and not measured. An answer that is not the reference's is an error, so a wrong call cannot be measured.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.operator_problem import POINTS, SHAPES, Problem
from detrex_ops import ms_deform_attn_reference

__all__ = ["Entry", "check", "peers"]

IM2COL_STEP = 64


@dataclass(frozen=True)
class Entry:
    """Something to measure: a function of the tensors that it is differentiated by, returning (B, Q, N * D)."""

    inputs: tuple[Tensor, ...]
    call: Callable[..., Tensor]
    around: Callable[[], AbstractContextManager[None]] = nullcontext  # what forward and backward run in


def peers(problem: Problem) -> Iterator[tuple[str, Entry]]:
    """Name and entry of each implementation that this device and installation have; says why the others are missing."""
    device = problem.value.device
    for name, (module, device_types, make) in _PEERS.items():
        if device.type not in device_types:
            continue
        try:
            entry = make(importlib.import_module(module), problem)
            check(name, entry, problem)
        except ModuleNotFoundError as error:
            _say_once(f"{name}: not installed ({error.name})")
        except Exception as error:  # a peer's own failure, whatever it is, is no reason to stop
            _say_once(f"{name}: not measured: {type(error).__name__}: {error}")
        else:
            yield name, entry


@torch.no_grad()
def check(name: str, entry: Entry, problem: Problem) -> None:
    """Compare an entry with the reference.

    Raises:
        RuntimeError: if its answer differs by more than its value's dtype explains.
    """
    with entry.around():
        actual = entry.call(*entry.inputs).float()
    expected = ms_deform_attn_reference(problem.value.float(), SHAPES, problem.locations, problem.weights)
    difference = ((actual - expected).abs().max() / expected.abs().max()).item()
    # In 16 bits a location is off by up to a quarter of a cell of the largest level.
    tolerance = {torch.float32: 1e-4, torch.float16: 0.2, torch.bfloat16: 5e-2}[entry.inputs[0].dtype]
    if not difference <= tolerance:
        raise RuntimeError(f"{name} differs from the reference by {difference:.1e} of the largest output")


@functools.cache
def _say_once(text: str) -> None:
    print(text, flush=True)


def _levels(problem: Problem) -> tuple[Tensor, Tensor]:
    """Shapes and first tokens as int64 tensors on the device, as the official signature wants them."""
    sizes = torch.tensor(SHAPES, device=problem.value.device)
    return sizes, torch.cat((sizes.new_zeros(1), sizes.prod(1).cumsum(0)[:-1]))


def _tensors(problem: Problem) -> tuple[Tensor, ...]:
    return problem.value, problem.locations, problem.weights


def _transformers(module, problem: Problem) -> Entry:
    """grid_sample as the official repository, mmcv and detrex call it on CPUs."""
    function, levels = module.MultiScaleDeformableAttention(), _levels(problem)

    def call(value: Tensor, locations: Tensor, weights: Tensor) -> Tensor:
        return function(value, levels[0], SHAPES, levels[1], locations, weights, IM2COL_STEP)

    return Entry(_tensors(problem), call)


def _official(module, problem: Problem) -> Entry:
    class Official(torch.autograd.Function):
        @staticmethod
        def forward(ctx, *inputs: Tensor) -> Tensor:
            ctx.save_for_backward(*inputs)
            return module.ms_deform_attn_forward(*inputs, IM2COL_STEP)

        @staticmethod
        def backward(ctx, grad_output: Tensor) -> tuple[Tensor | None, ...]:
            grads = module.ms_deform_attn_backward(*ctx.saved_tensors, grad_output.contiguous(), IM2COL_STEP)
            return grads[0], None, None, grads[1], grads[2]

    levels = _levels(problem)
    return Entry(_tensors(problem), lambda value, *rest: Official.apply(value, *levels, *rest))


def _mmcv(module, problem: Problem) -> Entry:
    function, levels = module.MultiScaleDeformableAttnFunction, _levels(problem)
    return Entry(_tensors(problem), lambda value, *rest: function.apply(value, *levels, *rest, IM2COL_STEP))


def _deformops(module, problem: Problem) -> Entry:
    levels, weights = _levels(problem), problem.weights.to(problem.value.dtype)
    inputs = (problem.value, problem.locations, weights)
    return Entry(inputs, lambda value, *rest: module.msda(value, *levels, *rest))


def _dcnv4(module, problem: Problem) -> Entry:
    """float16 alone; it joins locations and logits, and takes the softmax itself."""
    levels, value = _levels(problem), problem.value.half()
    joined = torch.cat((problem.locations.flatten(3), problem.weights.log().flatten(3)), -1).half()
    function = module.FlashDeformAttnFunction
    return Entry((value, joined), lambda value, joined: function.apply(value, *levels, joined, IM2COL_STEP, POINTS))


def _msda_triton(module, problem: Problem) -> Entry:
    """Its kernels themselves: the public function falls back to grid_sample in silence."""
    sizes = _levels(problem)[0]

    def call(value: Tensor, *rest: Tensor) -> Tensor:
        return module.triton_multiscale_deformable_attention(value, sizes, *rest, "zeros", False).flatten(2)

    return Entry(_tensors(problem), call)


def _in(dtype: torch.dtype, make: Callable[..., Entry]) -> Callable[..., Entry]:
    return lambda module, problem: make(module, problem.in_dtype(dtype))


_MMCV, _CUDA = "mmcv.ops.multi_scale_deform_attn", ("cuda",)
# Name: (module, device types, how to call it). What comes first is what ratios refer to.
_PEERS = {
    "grid_sample (transformers)": (
        "transformers.models.deformable_detr.modeling_deformable_detr",
        ("cpu", "cuda"),
        _transformers,
    ),
    "official CUDA": ("MultiScaleDeformableAttention", _CUDA, _official),
    "mmcv CUDA": (_MMCV, _CUDA, _mmcv),
    "mmcv CUDA float16": (_MMCV, _CUDA, _in(torch.float16, _mmcv)),
    "deformops": ("deformops.registry", ("cpu", "cuda"), _deformops),
    "deformops bfloat16": ("deformops.registry", _CUDA, _in(torch.bfloat16, _deformops)),
    "deformops float16": ("deformops.registry", _CUDA, _in(torch.float16, _deformops)),
    "DCNv4 float16": ("DCNv4.functions", _CUDA, _dcnv4),
    "msda-triton": ("msda_triton.frontend", _CUDA, _msda_triton),
}
