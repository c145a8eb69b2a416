"""The operators without torch's dispatcher, where nothing is there that it would have to ask.

Through the dispatcher a call passes several Python functions before it reaches a kernel, which takes longer than a
decoder layer's kernel does on a GPU. Here the same functions follow each other directly. Inputs are those of the
operators: tensors as in :mod:`detrex_ops.ms_deform_attn`, and after the value the sizes of the levels, flat,
``[H0, W0, H1, W1, ...]``. Nothing is checked here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn import Parameter

from detrex_ops import library


def may_call_directly(tensors: Sequence[Tensor]) -> bool:
    """Plain tensors on a CPU or GPU; no compilation, tracing, autocast, mode, transform or forward-mode derivative."""
    device_type = tensors[0].device.type
    return not (
        torch.compiler.is_compiling()
        or device_type not in ("cpu", "cuda")
        or torch.is_autocast_enabled(device_type)
        or torch._C._len_torch_dispatch_stack()
        or torch._C._len_torch_function_stack()
        or torch._C._are_functorch_transforms_active()
        or forward_ad._current_level >= 0
        or torch.jit.is_tracing()
        or any(type(tensor) not in (Tensor, Parameter) for tensor in tensors)
    )


def ms_deform_attn(*inputs: Any) -> Tensor:
    """What ``torch.ops.detrex_ops.ms_deform_attn`` returns, derivatives included."""
    return _Plain.apply(*inputs) if _needs_grad(inputs) else library.forward(*inputs)


def ms_deform_attn_fused(*inputs: Any) -> Tensor:
    """What ``torch.ops.detrex_ops.ms_deform_attn_fused`` returns, derivatives included."""
    return _Fused.apply(*inputs) if _needs_grad(inputs) else library.fused_forward(*inputs)


def _needs_grad(inputs: Sequence[Any]) -> bool:
    return torch.is_grad_enabled() and any(isinstance(input, Tensor) and input.requires_grad for input in inputs)


class _Plain(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        output = library.forward(*inputs)
        library.setup_context(ctx, inputs, output)
        return output

    backward = staticmethod(library.autograd)  # through the dispatcher: the operator of the backward has a derivative


class _Fused(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        output = library.fused_forward(*inputs)
        library.setup_context(ctx, inputs, output)
        return output

    backward = staticmethod(library.fused_autograd)
