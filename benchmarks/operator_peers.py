"""Other implementations of the operator, each where it is installed: name -> function with detrex_ops' signature."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Shapes = Sequence[tuple[int, int]]


def peers(device: torch.device) -> dict[str, Callable[..., Tensor]]:
    """grid_sample as the official code calls it comes first: it is what ratios refer to."""
    found: dict[str, Callable[..., Tensor]] = {}
    for add in (_transformers, *((_official, _mmcv) if device.type == "cuda" else ())):
        try:
            add(found, device)
        except ImportError:
            continue
    return found


def level_tensors(shapes: Shapes, device: torch.device) -> tuple[Tensor, Tensor]:
    """Shapes and first tokens as int64 tensors on the device, as the official signature wants them."""
    sizes = torch.tensor(shapes, device=device)
    return sizes, torch.cat((sizes.new_zeros(1), sizes.prod(1).cumsum(0)[:-1]))


def _transformers(found: dict[str, Callable[..., Tensor]], device: torch.device) -> None:
    from transformers.models.deformable_detr.modeling_deformable_detr import MultiScaleDeformableAttention

    module, levels = MultiScaleDeformableAttention(), {}

    def run(value: Tensor, shapes: Shapes, locations: Tensor, weights: Tensor) -> Tensor:
        sizes, starts = levels.setdefault(tuple(shapes), level_tensors(shapes, device))
        return module(value, sizes, list(shapes), starts, locations, weights, 64)

    found["grid_sample (transformers)"] = run


def _official(found: dict[str, Callable[..., Tensor]], device: torch.device) -> None:
    import MultiScaleDeformableAttention as extension

    class Official(torch.autograd.Function):
        @staticmethod
        def forward(ctx, *inputs: Tensor) -> Tensor:
            ctx.save_for_backward(*inputs)
            return extension.ms_deform_attn_forward(*inputs, 64)

        @staticmethod
        def backward(ctx, grad_output: Tensor) -> tuple[Tensor | None, ...]:
            grads = extension.ms_deform_attn_backward(*ctx.saved_tensors, grad_output.contiguous(), 64)
            return grads[0], None, None, grads[1], grads[2]

    def run(value: Tensor, shapes: Shapes, locations: Tensor, weights: Tensor) -> Tensor:
        return Official.apply(value, *level_tensors(shapes, device), locations, weights)

    found["official CUDA"] = run


def _mmcv(found: dict[str, Callable[..., Tensor]], device: torch.device) -> None:
    from mmcv.ops.multi_scale_deform_attn import MultiScaleDeformableAttnFunction

    def run(value: Tensor, shapes: Shapes, locations: Tensor, weights: Tensor) -> Tensor:
        return MultiScaleDeformableAttnFunction.apply(value, *level_tensors(shapes, device), locations, weights, 64)

    found["mmcv CUDA"] = run
