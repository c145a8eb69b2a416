"""The implementations behind one interface: tensors in, outputs allocated here, no autograd.

``reference_points`` is None for ``ms_deform_attn`` (samples are locations, weights are normalised) and a tensor for
the fused form (samples are offsets, weights are logits). ``shapes`` is flat: H0, W0, H1, W1, ...
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from detrex_ops.reference import ms_deform_attn_fused_reference, ms_deform_attn_reference

Grads = tuple[Tensor, Tensor | None, Tensor, Tensor]


class Arguments(NamedTuple):
    """What an implementation reads. Contiguous, and samples and weights in the compute dtype (float32, or float64)."""

    value: torch.Tensor  # (B, S, N, D)
    shapes: Sequence[int]
    reference_points: torch.Tensor | None  # (B, Q, L, 2 or 4)
    samples: torch.Tensor  # (B, Q, N, L, P, 2)
    weights: torch.Tensor  # (B, Q, N, L, P)

    @staticmethod
    def of(
        value: Tensor, shapes: Sequence[int], reference_points: Tensor | None, samples: Tensor, weights: Tensor
    ) -> Arguments:
        """Convert and copy where the caller's tensors are neither."""
        compute = torch.float64 if value.dtype == torch.float64 else torch.float32
        return Arguments(
            value.contiguous(),
            [int(size) for size in shapes],
            None if reference_points is None else reference_points.to(compute).contiguous(),
            samples.to(compute).contiguous(),
            weights.to(compute).contiguous(),
        )

    def new_output(self) -> Tensor:
        """(B, Q, N * D), uninitialised."""
        batch, _, heads, channels = self.value.shape
        return self.value.new_empty(batch, self.samples.shape[1], heads * channels)

    def new_grad_reference(self) -> Tensor | None:
        """(B, Q, N, L, 2 or 4), uninitialised: one for each head, to be summed over them."""
        if self.reference_points is None:
            return None
        batch, queries, heads, levels = self.samples.shape[:4]
        return self.samples.new_empty(batch, queries, heads, levels, self.reference_points.shape[-1])


@dataclass(frozen=True)
class Implementation:
    """Forward and backward of one backend. ``backward(grad_output, arguments, with_reference_points)``."""

    name: str
    forward: Callable[[Arguments], Tensor]
    backward: Callable[[Tensor, Arguments, bool], Grads]


def _cpu_forward(arguments: Arguments) -> Tensor:
    a, output = arguments, arguments.new_output()
    torch.ops.detrex_ops_cpu.forward(a.value, a.shapes, a.reference_points, a.samples, a.weights, output)
    return output


def _cpu_backward(grad_output: Tensor, arguments: Arguments, with_reference_points: bool) -> Grads:
    a = arguments
    value, samples, weights = (torch.empty_like(tensor) for tensor in (a.value, a.samples, a.weights))
    points = a.new_grad_reference() if with_reference_points else None
    inputs = (grad_output.to(a.value.dtype).contiguous(), a.value, a.shapes, a.reference_points, a.samples, a.weights)
    torch.ops.detrex_ops_cpu.backward(*inputs, value, points, samples, weights)
    return value, None if points is None else points.sum(2), samples, weights


def reference_call(
    value: Tensor, shapes: Sequence[int], reference_points: Tensor | None, samples: Tensor, weights: Tensor
) -> Tensor:
    """The definition, for flat shapes and for both forms."""
    pairs = list(zip(shapes[::2], shapes[1::2], strict=True))
    if reference_points is None:
        return ms_deform_attn_reference(value, pairs, samples, weights)
    return ms_deform_attn_fused_reference(value, pairs, reference_points, samples, weights)


def _reference_forward(arguments: Arguments) -> Tensor:
    a = arguments
    with torch.no_grad():
        return reference_call(a.value, a.shapes, a.reference_points, a.samples, a.weights)


def _reference_backward(grad_output: Tensor, arguments: Arguments, with_reference_points: bool) -> Grads:
    a = arguments
    with torch.enable_grad():
        value, samples, weights = (tensor.detach().requires_grad_() for tensor in (a.value, a.samples, a.weights))
        points = None if a.reference_points is None else a.reference_points.detach()
        inputs = [value, samples, weights]
        if with_reference_points:
            inputs.append(points.requires_grad_())
        output = reference_call(value, a.shapes, points, samples, weights)
        grads = torch.autograd.grad(output, inputs, grad_output)
    return grads[0], grads[3] if with_reference_points else None, grads[1], grads[2]


def _stream(tensor: Tensor) -> int:
    return torch.cuda.current_stream(tensor.device).cuda_stream


def _cuda_forward(arguments: Arguments) -> Tensor:
    a, output = arguments, arguments.new_output()
    inputs = (a.value, a.shapes, a.reference_points, a.samples, a.weights)
    torch.ops.detrex_ops_cuda.forward(*inputs, output, _stream(a.value))
    return output


def _cuda_backward(grad_output: Tensor, arguments: Arguments, with_reference_points: bool) -> Grads:
    a = arguments
    grad_output = grad_output.to(a.value.dtype).contiguous()
    scale = None
    if torch.are_deterministic_algorithms_enabled() and a.weights.numel():
        scale = fixed_point_scale(grad_output, a)
    sums = torch.zeros_like(a.value, dtype=a.samples.dtype if scale is None else torch.int64)
    samples, weights = torch.empty_like(a.samples), torch.empty_like(a.weights)
    points = a.new_grad_reference().zero_() if with_reference_points else None
    inputs = (grad_output, a.value, a.shapes, a.reference_points, a.samples, a.weights)
    torch.ops.detrex_ops_cuda.backward(*inputs, sums, points, samples, weights, scale, _stream(a.value))
    value = sums if scale is None else sums.double() / scale.double()
    return value.to(a.value.dtype), None if points is None else points.sum(2), samples, weights


def fixed_point_scale(grad_output: Tensor, arguments: Arguments) -> Tensor:
    """Steps per unit such that the sums of an image fit into 62 bits; a NaN spoils all of them, as it should."""
    a = arguments
    weight = a.weights.new_ones(()) if a.reference_points is not None else a.weights.abs().amax()
    contributions = a.weights[0].numel()
    bound = grad_output.abs().amax().double() * weight.double() * contributions
    exponent = 62 - torch.log2(bound.clamp(min=1e-30)).ceil()
    return torch.exp2(exponent.clamp(max=100)).to(a.samples.dtype).reshape(1)


CPU = Implementation("cpu", _cpu_forward, _cpu_backward)
CUDA = Implementation("cuda", _cuda_forward, _cuda_backward)
REFERENCE = Implementation("reference", _reference_forward, _reference_backward)
