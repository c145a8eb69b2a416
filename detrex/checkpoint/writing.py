"""Files that are written completely or not at all, and tensors gathered from all processes for them."""

from __future__ import annotations

import copy
import errno
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import safetensors.torch
import torch
from detectron2.utils import comm
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

__all__ = ["cause_on_disk", "is_spread", "like", "replace_file", "shard_optimizer_state", "whole", "write_weights"]


def replace_file(target: Path, write: Callable[[BinaryIO], Any]) -> None:
    """Write a file whole or not at all, whenever the process or the machine dies."""
    temporary = Path(f"{target}.tmp")
    try:
        with temporary.open("wb") as f:
            write(f)
            f.flush()
            os.fsync(f.fileno())
        os.replace(temporary, target)
    except Exception:
        temporary.unlink(missing_ok=True)  # its space may be what lacks
        raise
    _sync_folder(target.parent)


def _sync_folder(folder: Path) -> None:
    """Have the folder remember its new name after a loss of power; not every system can."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(descriptor)
    except OSError as e:
        if e.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


def cause_on_disk(error: BaseException | None) -> OSError | None:
    """The error of the disk behind one that torch raised in its place."""
    while error is not None and not isinstance(error, OSError):
        error = error.__cause__ or error.__context__
    return error


def write_weights(target: Path, state: Mapping[str, Tensor], metadata: Mapping[str, Any] | None = None) -> None:
    """Write a state dict, and plain values beside it, whole or not at all: ``.safetensors``, or else torch's format."""
    if target.suffix != ".safetensors":
        data = {"model": dict(state), **({"metadata": metadata} if metadata else {})}
        return replace_file(target, lambda file: torch.save(data, file))
    texts = {"format": "pt", **({"metadata": json.dumps(metadata)} if metadata else {})}
    # safetensors refuses tensors that share memory.
    copies = {name: value.clone(memory_format=torch.contiguous_format) for name, value in state.items()}
    return replace_file(target, lambda file: file.write(safetensors.torch.save(copies, texts)))


# ------------------------------------------------------------------- tensors spread over processes (FSDP2's DTensor)
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
