"""The torch operators: schemas, fake kernels, autograd (twice) and autocast, shared by all backends.

The schemas are defined here and not in C++ because ``SymInt[]`` lets one compiled graph serve all image sizes, and the
stable ABI of the extensions has no such type. Flat shapes: H0, W0, H1, W1, ...
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from detrex_ops.backends import implementation
from detrex_ops.kernels import Arguments, reference_call
from detrex_ops.reference import LOW_PRECISION

LIBRARY = torch.library.Library("detrex_ops", "DEF")
_VALUE = "Tensor value, SymInt[] spatial_shapes"
_PLAIN = f"{_VALUE}, Tensor sampling_locations, Tensor attention_weights"
_FUSED = f"{_VALUE}, Tensor reference_points, Tensor sampling_offsets, Tensor attention_logits"

LIBRARY.define(f"ms_deform_attn({_PLAIN}) -> Tensor")
LIBRARY.define(f"ms_deform_attn_backward(Tensor grad_output, {_PLAIN}) -> (Tensor, Tensor, Tensor)")
LIBRARY.define(f"ms_deform_attn_fused({_FUSED}) -> Tensor")
# The gradient of the reference points has no elements unless it is asked for: most layers detach them.
LIBRARY.define(
    f"ms_deform_attn_fused_backward(Tensor grad_output, {_FUSED}, bool with_reference_points) "
    "-> (Tensor, Tensor, Tensor, Tensor)"
)
Shapes = Sequence[int]


def _refuse_forward_mode() -> None:
    """A call that needs no gradient would have a derivative of zero; under torch.func no tangent is in sight here."""
    if forward_ad._current_level >= 0:
        raise RuntimeError(
            "torch.ops.detrex_ops has no derivatives in forward mode: call detrex_ops.ms_deform_attn or "
            "detrex_ops.ms_deform_attn_fused, which have them"
        )


def forward(value: Tensor, shapes: Shapes, locations: Tensor, weights: Tensor) -> Tensor:
    _refuse_forward_mode()
    arguments = Arguments.of(value, shapes, None, locations, weights)
    return implementation(value.device).forward(arguments)


def fused_forward(value: Tensor, shapes: Shapes, points: Tensor, offsets: Tensor, logits: Tensor) -> Tensor:
    _refuse_forward_mode()
    arguments = Arguments.of(value, shapes, points, offsets, logits)
    return implementation(value.device).forward(arguments)


def _backward(
    grad_output: Tensor, value: Tensor, shapes: Shapes, locations: Tensor, weights: Tensor
) -> tuple[Tensor, ...]:
    arguments = Arguments.of(value, shapes, None, locations, weights)
    grads = implementation(value.device).backward(grad_output, arguments, False)
    return grads[0], grads[2].to(locations.dtype), grads[3].to(weights.dtype)


def _fused_backward(
    grad_output: Tensor,
    value: Tensor,
    shapes: Shapes,
    points: Tensor,
    offsets: Tensor,
    logits: Tensor,
    with_reference_points: bool,
) -> tuple[Tensor, ...]:
    arguments = Arguments.of(value, shapes, points, offsets, logits)
    grads = implementation(value.device).backward(grad_output, arguments, with_reference_points)
    grad_points = points.new_empty(0) if grads[1] is None else grads[1].to(points.dtype)
    return grads[0], grad_points, grads[2].to(offsets.dtype), grads[3].to(logits.dtype)


for _key in ("CPU", "CUDA"):
    LIBRARY.impl("ms_deform_attn", forward, _key)
    LIBRARY.impl("ms_deform_attn_backward", _backward, _key)
    LIBRARY.impl("ms_deform_attn_fused", fused_forward, _key)
    LIBRARY.impl("ms_deform_attn_fused_backward", _fused_backward, _key)


# Fake kernels -------------------------------------------------------------------------------------------------------


def _fake_output(value: Tensor, queries: int) -> Tensor:
    return value.new_empty(value.shape[0], queries, value.shape[2] * value.shape[3])


def _contiguous_like(*tensors: Tensor) -> tuple[Tensor, ...]:
    return tuple(tensor.new_empty(tensor.shape) for tensor in tensors)


@torch.library.register_fake("detrex_ops::ms_deform_attn", lib=LIBRARY)
def _(value, shapes, locations, weights):
    return _fake_output(value, locations.shape[1])


@torch.library.register_fake("detrex_ops::ms_deform_attn_backward", lib=LIBRARY)
def _(grad_output, value, shapes, locations, weights):
    return _contiguous_like(value, locations, weights)


@torch.library.register_fake("detrex_ops::ms_deform_attn_fused", lib=LIBRARY)
def _(value, shapes, points, offsets, logits):
    return _fake_output(value, offsets.shape[1])


@torch.library.register_fake("detrex_ops::ms_deform_attn_fused_backward", lib=LIBRARY)
def _(grad_output, value, shapes, points, offsets, logits, with_reference_points):
    grad_value, grad_points, grad_offsets, grad_logits = _contiguous_like(value, points, offsets, logits)
    return grad_value, grad_points if with_reference_points else points.new_empty(0), grad_offsets, grad_logits


# Autograd -----------------------------------------------------------------------------------------------------------


def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
    value, ctx.shapes, *rest = inputs
    ctx.save_for_backward(value, *rest)


def autograd(ctx: Any, grad_output: Tensor) -> tuple:
    value, locations, weights = ctx.saved_tensors
    grads = torch.ops.detrex_ops.ms_deform_attn_backward(grad_output, value, ctx.shapes, locations, weights)
    return grads[0], None, grads[1], grads[2]


def fused_autograd(ctx: Any, grad_output: Tensor) -> tuple:
    value, points, offsets, logits = ctx.saved_tensors
    wanted = ctx.needs_input_grad[2]
    grads = torch.ops.detrex_ops.ms_deform_attn_fused_backward(
        grad_output, value, ctx.shapes, points, offsets, logits, wanted
    )
    return grads[0], None, grads[1] if wanted else None, grads[2], grads[3]


def _setup_backward_context(ctx: Any, inputs: tuple, output: tuple) -> None:
    grad_output, value, ctx.shapes, *rest = inputs
    tensors = [tensor for tensor in rest if isinstance(tensor, Tensor)]
    ctx.save_for_backward(grad_output, value, *tensors)


def _second_order(ctx: Any, grads: Sequence[Tensor | None]) -> list[Tensor | None]:
    """Derivatives of the backward operator by differentiating the reference twice, in the order of its tensors."""
    with torch.enable_grad():
        grad_output, value, *rest = (tensor.detach().requires_grad_() for tensor in ctx.saved_tensors)
        points = rest[0] if len(rest) == 3 else None
        output = reference_call(value, ctx.shapes, points, *rest[-2:])
        first = torch.autograd.grad(output, (value, *rest), grad_output, create_graph=True)
        wanted = [k for k, seed in enumerate(grads) if seed is not None and seed.numel()]
        outer, seeds = [first[k] for k in wanted], [grads[k] for k in wanted]
        return list(torch.autograd.grad(outer, (grad_output, value, *rest), seeds, allow_unused=True))


def _double_backward(ctx: Any, *grads: Tensor | None) -> tuple:
    grad_output, value, locations, weights = _second_order(ctx, grads)
    return grad_output, value, None, locations, weights


def _fused_double_backward(ctx: Any, *grads: Tensor | None) -> tuple:
    grad_output, value, points, offsets, logits = _second_order(ctx, grads)
    return grad_output, value, None, points, offsets, logits, None


for _name, _derivative, _setup in (
    ("ms_deform_attn", autograd, setup_context),
    ("ms_deform_attn_fused", fused_autograd, setup_context),
    ("ms_deform_attn_backward", _double_backward, _setup_backward_context),
    ("ms_deform_attn_fused_backward", _fused_double_backward, _setup_backward_context),
):
    torch.library.register_autograd(f"detrex_ops::{_name}", _derivative, setup_context=_setup, lib=LIBRARY)


# Autocast: the value in the autocast dtype, positions and weights as they are ----------------------------------------


def _register_autocast(name: str, device_type: str, key: str) -> None:
    keys = torch._C.DispatchKeySet(getattr(torch._C.DispatchKey, key))

    def autocast(value: Tensor, *arguments: Any) -> Tensor:
        if value.dtype not in (torch.float64, *LOW_PRECISION):
            value = value.to(torch.get_autocast_dtype(device_type))
        with torch._C._ExcludeDispatchKeyGuard(keys):
            return getattr(torch.ops.detrex_ops, name)(value, *arguments)

    LIBRARY.impl(name, autocast, key)


for _name in ("ms_deform_attn", "ms_deform_attn_fused"):
    _register_autocast(_name, "cpu", "AutocastCPU")
    _register_autocast(_name, "cuda", "AutocastCUDA")
