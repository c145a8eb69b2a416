"""Tensors that are spread over processes (``DTensor``, of FSDP2) in files that know nothing of it."""

from __future__ import annotations

import copy
from typing import Any

import torch
from detectron2.utils import comm
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

__all__ = ["is_spread", "like", "shard_optimizer_state", "whole"]


def is_spread(model: nn.Module) -> bool:
    """Whether a model's parameters are spread over processes."""
    return any(isinstance(parameter, DTensor) for parameter in model.parameters())


def whole(state: Any) -> Any:
    """``state`` with each spread tensor put together on the CPU of the first process; others get an empty one instead.

    Args:
        state: nested dicts, lists and tuples. To be called by all processes, with the same keys in the same order.
    """
    if isinstance(state, DTensor):
        tensor = state.detach().full_tensor()  # one after the other, so that only one is whole on the devices
        return tensor.cpu() if comm.is_main_process() else torch.empty(0)
    if isinstance(state, dict):
        new = copy.copy(state)  # of the same type
        new.update((key, whole(value)) for key, value in state.items())
        return new
    if type(state) in (list, tuple):
        return type(state)(whole(value) for value in state)
    return state


def like(value: Tensor, reference: Tensor) -> Tensor:
    """``value``, which every process has whole, spread as ``reference`` is; as it is if that is not spread."""
    if not isinstance(reference, DTensor) or isinstance(value, DTensor):
        return value
    value = value.to(reference.device)
    return distribute_tensor(value, reference.device_mesh, reference.placements, src_data_rank=None)


def shard_optimizer_state(optimizer: torch.optim.Optimizer) -> None:
    """Spread what the optimizer keeps of each parameter as the parameter is, after whole tensors were loaded."""
    for parameter, state in optimizer.state.items():
        for key, value in state.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                state[key] = like(value, parameter)
