"""Multi-scale deformable attention in standard PyTorch operators: the definition that every kernel is tested against.

Legend: B batch, S tokens of all levels, N heads, D channels per head, Q queries, L levels, P points per level and head.

Source: Zhu et al., "Deformable DETR: Deformable Transformers for End-to-End Object Detection", section 4.1, equation 3.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import forward_ad

LOW_PRECISION = (torch.float16, torch.bfloat16)


def ms_deform_attn_reference(
    value_BSND: Tensor,
    spatial_shapes: Sequence[tuple[int, int]],
    sampling_locations_BQNLP2: Tensor,
    attention_weights_BQNLP: Tensor,
) -> Tensor:
    """Sample every level bilinearly (zeros outside, pixel centres at half integers) and add up with the weights.

    Args, shapes and dtypes are those of :func:`detrex_ops.ms_deform_attn`, which checks them; this function does not.
    16-bit values are sampled and accumulated in float32. Runs on any device and is twice differentiable.

    Returns:
        (B, Q, N * D) in the dtype of ``value_BSND``.
    """
    B, _, N, D = value_BSND.shape
    Q = sampling_locations_BQNLP2.shape[1]
    output_dtype = value_BSND.dtype
    dtype = torch.float32 if output_dtype in LOW_PRECISION else output_dtype
    value_BSND = value_BSND.to(dtype)
    grids_BQNLP2 = 2 * sampling_locations_BQNLP2.to(dtype) - 1
    weights_BQNLP = attention_weights_BQNLP.to(dtype)
    levels = value_BSND.split([height * width for height, width in spatial_shapes], dim=1)
    total: Tensor | None = None
    for level, (height, width) in enumerate(spatial_shapes):
        maps = levels[level].permute(0, 2, 3, 1).reshape(B * N, D, height, width)
        grid = grids_BQNLP2[:, :, :, level].transpose(1, 2).flatten(0, 1)
        weights = weights_BQNLP[:, :, :, level].transpose(1, 2).flatten(0, 1).unsqueeze(1)
        samples = _grid_sample(maps, grid)
        # In place where nothing keeps the samples: fresh memory of their size costs more than the product.
        keeps = torch.is_grad_enabled() or is_transformed()
        samples = samples * weights if keeps else samples.mul_(weights)
        sampled = samples.sum(-1)
        total = sampled if total is None else total + sampled
    return total.reshape(B, N * D, Q).transpose(1, 2).to(output_dtype).contiguous()


def ms_deform_attn_fused_reference(
    value_BSND: Tensor,
    spatial_shapes: Sequence[tuple[int, int]],
    reference_points_BQLR: Tensor,
    sampling_offsets_BQNLP2: Tensor,
    attention_logits_BQNLP: Tensor,
) -> Tensor:
    """Equation 3 from the raw projections; the shapes are those of :func:`detrex_ops.ms_deform_attn_fused`."""
    locations = sampling_locations(reference_points_BQLR, sampling_offsets_BQNLP2, spatial_shapes)
    dtype = locations.dtype
    weights = attention_logits_BQNLP.to(dtype).flatten(3).softmax(-1).view(attention_logits_BQNLP.shape)
    return ms_deform_attn_reference(value_BSND, spatial_shapes, locations, weights)


def sampling_locations(
    reference_points_BQLR: Tensor, sampling_offsets_BQNLP2: Tensor, spatial_shapes: Sequence[tuple[int, int]]
) -> Tensor:
    """Reference points plus offsets, (B, Q, N, L, P, 2), in float32 at least.

    Offsets are in cells of their level where the reference is a point (R = 2), and in units of half the box divided
    by the number of points where it is a box cx, cy, w, h (R = 4): Deformable DETR, appendix A.4.
    """
    dtype = torch.float64 if sampling_offsets_BQNLP2.dtype == torch.float64 else torch.float32
    reference = reference_points_BQLR.to(dtype)[:, :, None, :, None]
    offsets = sampling_offsets_BQNLP2.to(dtype)
    if reference.shape[-1] == 4:
        return reference[..., :2] + offsets * (reference[..., 2:] * (0.5 / offsets.shape[4]))
    # Built level by level from Python ints: a tensor of shapes would be copied to the device, with a synchronisation.
    scaled = [
        torch.stack((level[..., 0] / width, level[..., 1] / height), -1)
        for level, (height, width) in zip(offsets.unbind(3), spatial_shapes, strict=True)
    ]
    return reference + torch.stack(scaled, 3)


def is_transformed() -> bool:
    """Whether a function transform (``torch.func``) or forward-mode differentiation is active."""
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


def _grid_sample(maps: Tensor, grid: Tensor) -> Tensor:
    """``F.grid_sample``, with the derivatives that it lacks: the second one, and those in forward mode."""
    if not torch.compiler.is_compiling() and not torch.onnx.is_in_onnx_export():
        if is_transformed():
            return _bilinear_gather(maps, grid)
        if torch.is_grad_enabled():
            return _GridSample.apply(maps, grid)
    return F.grid_sample(maps, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


class _GridSample(torch.autograd.Function):
    """PyTorch's backward of grid_sample has no derivative; under ``create_graph`` take that of a gather instead."""

    @staticmethod
    def forward(ctx, maps: Tensor, grid: Tensor) -> Tensor:
        ctx.save_for_backward(maps, grid)
        return F.grid_sample(maps, grid, mode="bilinear", padding_mode="zeros", align_corners=False)

    @staticmethod
    def backward(ctx, grad_output: Tensor) -> tuple[Tensor | None, Tensor | None]:
        maps, grid = ctx.saved_tensors
        if not torch.is_grad_enabled():
            mask = [ctx.needs_input_grad[0], True]
            return torch.ops.aten.grid_sampler_2d_backward(grad_output, maps, grid, 0, 0, False, mask)
        inputs = [tensor for tensor, needed in zip((maps, grid), ctx.needs_input_grad, strict=True) if needed]
        grads = iter(torch.autograd.grad(_bilinear_gather(maps, grid), inputs, grad_output, create_graph=True))
        return tuple(next(grads) if needed else None for needed in ctx.needs_input_grad)


def _bilinear_gather(maps: Tensor, grid: Tensor) -> Tensor:
    """grid_sample with all derivatives, in either mode. maps (M, D, H, W), grid (M, Q, P, 2): (M, D, Q, P)."""
    M, D, H, W = maps.shape
    x = (grid[..., 0] + 1) * (W / 2) - 0.5
    y = (grid[..., 1] + 1) * (H / 2) - 0.5
    left, top = x.detach().floor(), y.detach().floor()
    flat = maps.flatten(2)
    total = maps.new_zeros(())
    for row, weight_y in ((top, top + 1 - y), (top + 1, y - top)):
        for column, weight_x in ((left, left + 1 - x), (left + 1, x - left)):
            inside = (column >= 0) & (column < W) & (row >= 0) & (row < H)
            index = torch.where(inside, row * W + column, 0).long().reshape(M, 1, -1).expand(-1, D, -1)
            corner = flat.gather(2, index).reshape(M, D, *x.shape[1:])
            total = total + torch.where(inside.unsqueeze(1), corner, 0) * (weight_x * weight_y).unsqueeze(1)
    return total
