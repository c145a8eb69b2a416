"""The operator in Triton, for GPUs without the compiled CUDA part. Imported only where Triton is installed.

A program serves a block of queries of one head of one image; channels lie along the second axis. Level sizes are scalar
arguments, so that a new image size is neither a compilation nor a copy to the device.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from detrex_ops.kernels import Arguments, Grads, Implementation

MAX_LEVELS = 8
_SIZES = [f"{side}{level}" for level in range(MAX_LEVELS) for side in "hw"]
_VARYING = ["S", "Q", *_SIZES]  # never a reason to compile again


@triton.jit
def _pick(level: tl.constexpr, s0, s1, s2, s3, s4, s5, s6, s7):
    if level == 0:  # noqa: SIM116
        return s0
    elif level == 1:  # noqa: RET505  (Triton wants one chain)
        return s1
    elif level == 2:
        return s2
    elif level == 3:
        return s3
    elif level == 4:
        return s4
    elif level == 5:
        return s5
    elif level == 6:
        return s6
    else:
        return s7


@triton.jit
def _softmax_statistics(weights, row, active, K: tl.constexpr):
    """Maximum and sum of exponentials of each query's logits."""
    maximum = tl.load(weights + row * K, mask=active, other=0.0)
    for k in range(1, K):
        maximum = tl.maximum(maximum, tl.load(weights + row * K + k, mask=active, other=0.0))
    total = tl.zeros_like(maximum)
    for k in range(K):
        total += tl.exp(tl.load(weights + row * K + k, mask=active, other=0.0) - maximum)
    return maximum, total


@triton.jit
def _position(offset_x, offset_y, point, active, h, w, P: tl.constexpr, R: tl.constexpr):
    """x and y in cells. ``point`` addresses each query's reference at this level."""
    x = offset_x * w - 0.5
    y = offset_y * h - 0.5
    if R == 2:
        x = offset_x + (tl.load(point, mask=active, other=0.0) * w - 0.5)
        y = offset_y + (tl.load(point + 1, mask=active, other=0.0) * h - 0.5)
    if R == 4:
        box_w = tl.load(point + 2, mask=active, other=0.0) * (0.5 / P)
        box_h = tl.load(point + 3, mask=active, other=0.0) * (0.5 / P)
        x = (tl.load(point, mask=active, other=0.0) + offset_x * box_w) * w - 0.5
        y = (tl.load(point + 1, mask=active, other=0.0) + offset_y * box_h) * h - 0.5
    return x, y


@triton.jit
def _cell(x, y, h, w):
    """Top left cell, fractions, and whether any corner is inside. A NaN or infinity leaves NaN in the fractions."""
    inside = (x >= -1) & (x < w) & (y >= -1) & (y < h)
    safe_x = tl.where(inside, x, 0.0)
    safe_y = tl.where(inside, y, 0.0)
    left = tl.floor(safe_x)
    top = tl.floor(safe_y)
    fraction_x = tl.where(inside, safe_x - left, x - x)
    fraction_y = tl.where(inside, safe_y - top, y - y)
    return left.to(tl.int32), top.to(tl.int32), fraction_x, fraction_y, inside


@triton.jit
def _corner(first, column, line, inside, h, w, pitch, channel, D):
    """Offsets and mask of one corner's rows, (queries, channels)."""
    valid = inside & (column >= 0) & (column < w) & (line >= 0) & (line < h)
    cell = tl.where(valid, line * w + column, 0).to(tl.int64)
    return (first + cell * pitch)[:, None] + channel[None, :], valid[:, None] & (channel < D)[None, :]


@triton.jit(do_not_specialize=_VARYING)
def _forward_kernel(
    value, reference, samples, weights, output, S, N, D, Q,
    h0, w0, h1, w1, h2, w2, h3, w3, h4, w4, h5, w5, h6, w6, h7, w7,
    L: tl.constexpr, P: tl.constexpr, R: tl.constexpr, BQ: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    blocks = tl.cdiv(Q, BQ)
    head = (tl.program_id(0) // blocks).to(tl.int64)
    b = head // N
    n = head % N
    q = (tl.program_id(0) % blocks) * BQ + tl.arange(0, BQ)
    active = q < Q
    channel = tl.arange(0, BD)
    channel_mask = channel < D
    query = b * Q + q
    row = query * N + n
    compute = weights.dtype.element_ty
    total = tl.zeros((BQ, BD), dtype=compute)
    if R != 0:
        maximum, exponentials = _softmax_statistics(weights, row, active, L * P)
    pitch = N * D
    first = (b * S) * pitch + n * D
    for level in tl.static_range(L):
        h = _pick(level, h0, h1, h2, h3, h4, h5, h6, h7)
        w = _pick(level, w0, w1, w2, w3, w4, w5, w6, w7)
        for p in range(P):
            index = row * (L * P) + level * P + p
            weight = tl.load(weights + index, mask=active, other=0.0)
            if R != 0:
                weight = tl.exp(weight - maximum) / exponentials
            offset_x = tl.load(samples + 2 * index, mask=active, other=0.0)
            offset_y = tl.load(samples + 2 * index + 1, mask=active, other=0.0)
            point = reference + (query * L + level) * R
            x, y = _position(offset_x, offset_y, point, active, h, w, P, R)
            column, line, fx, fy, inside = _cell(x, y, h, w)
            inside = inside & active
            for c in tl.static_range(4):
                share = (fx if c % 2 == 1 else 1 - fx) * (fy if c >= 2 else 1 - fy) * weight
                offsets, mask = _corner(first, column + c % 2, line + c // 2, inside, h, w, pitch, channel, D)
                total += tl.load(value + offsets, mask=mask, other=0.0).to(compute) * share[:, None]
        first += (h * w).to(tl.int64) * pitch
    target = output + row[:, None] * D + channel[None, :]
    tl.store(target, total.to(output.dtype.element_ty), mask=active[:, None] & channel_mask[None, :])


@triton.jit(do_not_specialize=_VARYING)
def _backward_kernel(
    grad_output, value, reference, samples, weights, grad_value, grad_reference, grad_samples, grad_weights, S, N, D, Q,
    h0, w0, h1, w1, h2, w2, h3, w3, h4, w4, h5, w5, h6, w6, h7, w7,
    L: tl.constexpr, P: tl.constexpr, R: tl.constexpr, WITH_REFERENCE: tl.constexpr, BQ: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    blocks = tl.cdiv(Q, BQ)
    head = (tl.program_id(0) // blocks).to(tl.int64)
    b = head // N
    n = head % N
    q = (tl.program_id(0) % blocks) * BQ + tl.arange(0, BQ)
    active = q < Q
    channel = tl.arange(0, BD)
    channel_mask = channel < D
    query = b * Q + q
    row = query * N + n
    compute = weights.dtype.element_ty
    source = grad_output + row[:, None] * D + channel[None, :]
    grad = tl.load(source, mask=active[:, None] & channel_mask[None, :], other=0.0).to(compute)
    expected = tl.zeros((BQ,), dtype=compute)
    if R != 0:
        maximum, exponentials = _softmax_statistics(weights, row, active, L * P)
    pitch = N * D
    first = (b * S) * pitch + n * D
    for level in tl.static_range(L):
        h = _pick(level, h0, h1, h2, h3, h4, h5, h6, h7)
        w = _pick(level, w0, w1, w2, w3, w4, w5, w6, w7)
        point = reference + (query * L + level) * R
        sum_x = tl.zeros((BQ,), dtype=compute)
        sum_y = tl.zeros((BQ,), dtype=compute)
        sum_w = tl.zeros((BQ,), dtype=compute)
        sum_h = tl.zeros((BQ,), dtype=compute)
        for p in range(P):
            index = row * (L * P) + level * P + p
            weight = tl.load(weights + index, mask=active, other=0.0)
            if R != 0:
                weight = tl.exp(weight - maximum) / exponentials
            offset_x = tl.load(samples + 2 * index, mask=active, other=0.0)
            offset_y = tl.load(samples + 2 * index + 1, mask=active, other=0.0)
            x, y = _position(offset_x, offset_y, point, active, h, w, P, R)
            column, line, fx, fy, inside = _cell(x, y, h, w)
            inside = inside & active
            sampled = tl.zeros((BQ,), dtype=compute)
            grad_x = tl.zeros((BQ,), dtype=compute)
            grad_y = tl.zeros((BQ,), dtype=compute)
            for c in tl.static_range(4):
                share_x = fx if c % 2 == 1 else 1 - fx
                share_y = fy if c >= 2 else 1 - fy
                offsets, mask = _corner(first, column + c % 2, line + c // 2, inside, h, w, pitch, channel, D)
                dot = tl.sum(tl.load(value + offsets, mask=mask, other=0.0).to(compute) * grad, axis=1)
                sampled += dot * share_x * share_y
                grad_x += dot * share_y * (1.0 if c % 2 == 1 else -1.0)
                grad_y += dot * share_x * (1.0 if c >= 2 else -1.0)
                tl.atomic_add(
                    grad_value + offsets, grad * (share_x * share_y * weight)[:, None], mask=mask, sem="relaxed"
                )
            # To units of the location, in which the level's size is 1.
            grad_x *= weight * w
            grad_y *= weight * h
            expected += sampled * weight
            if R == 4:
                half_w = tl.load(point + 2, mask=active, other=0.0) * (0.5 / P)
                half_h = tl.load(point + 3, mask=active, other=0.0) * (0.5 / P)
                tl.store(grad_samples + 2 * index, grad_x * half_w, mask=active)
                tl.store(grad_samples + 2 * index + 1, grad_y * half_h, mask=active)
            else:
                tl.store(grad_samples + 2 * index, grad_x / w if R == 2 else grad_x, mask=active)
                tl.store(grad_samples + 2 * index + 1, grad_y / h if R == 2 else grad_y, mask=active)
            sum_x += grad_x
            sum_y += grad_y
            sum_w += grad_x * offset_x * (0.5 / P)
            sum_h += grad_y * offset_y * (0.5 / P)
            tl.store(grad_weights + index, sampled, mask=active)
        if WITH_REFERENCE:
            target = grad_reference + (row * L + level) * R
            tl.store(target, sum_x, mask=active)
            tl.store(target + 1, sum_y, mask=active)
            if R == 4:
                tl.store(target + 2, sum_w, mask=active)
                tl.store(target + 3, sum_h, mask=active)
        first += (h * w).to(tl.int64) * pitch
    if R != 0:  # through the softmax
        tl.debug_barrier()
        for k in range(L * P):
            index = row * (L * P) + k
            weight = tl.exp(tl.load(weights + index, mask=active, other=0.0) - maximum) / exponentials
            sampled = tl.load(grad_weights + index, mask=active, other=0.0)
            tl.store(grad_weights + index, weight * (sampled - expected), mask=active)


def _launch(kernel: Any, tensors: Sequence[Tensor | None], arguments: Arguments, **flags: Any) -> None:
    a = arguments
    batch, tokens, heads, channels = a.value.shape
    queries, levels, points = a.samples.shape[1], a.samples.shape[3], a.samples.shape[4]
    if levels > MAX_LEVELS:
        raise ValueError(f"the Triton kernels take up to {MAX_LEVELS} levels, got {levels}: set DETREX_OPS=reference")
    if a.samples.numel() == 0:
        return
    block_channels = triton.next_power_of_2(channels)
    block_queries = max(1, min(32, 1024 // block_channels))
    sizes = dict(zip(_SIZES, [*a.shapes, *[1] * (2 * MAX_LEVELS)], strict=False))
    reference_size = 0 if a.reference_points is None else a.reference_points.shape[-1]
    grid = (batch * heads * triton.cdiv(queries, block_queries),)
    with torch.cuda.device(a.value.device) if a.value.is_cuda else torch.no_grad():
        kernel[grid](
            *tensors, tokens, heads, channels, queries, **sizes,
            L=levels, P=points, R=reference_size, BQ=block_queries, BD=block_channels, **flags,
        )  # fmt: skip


def _forward(arguments: Arguments) -> Tensor:
    a, output = arguments, arguments.new_output()
    points = a.weights if a.reference_points is None else a.reference_points  # unused: any pointer will do
    _launch(_forward_kernel, (a.value, points, a.samples, a.weights, output), a)
    return output


def _backward(grad_output: Tensor, arguments: Arguments, with_reference_points: bool) -> Grads:
    if torch.are_deterministic_algorithms_enabled():
        raise RuntimeError("the Triton backward is not deterministic: set DETREX_OPS=reference, or build the CUDA part")
    a = arguments
    sums = torch.zeros_like(a.value, dtype=a.samples.dtype)
    samples, weights = torch.empty_like(a.samples), torch.empty_like(a.weights)
    points = a.weights if a.reference_points is None else a.reference_points
    per_head = a.new_grad_reference() if with_reference_points else None
    target = weights if per_head is None else per_head
    inputs = (grad_output.to(a.value.dtype).contiguous(), a.value, points, a.samples, a.weights)
    _launch(_backward_kernel, (*inputs, sums, target, samples, weights), a, WITH_REFERENCE=with_reference_points)
    return sums.to(a.value.dtype), None if per_head is None else per_head.sum(2), samples, weights


TRITON = Implementation("triton", _forward, _backward)
