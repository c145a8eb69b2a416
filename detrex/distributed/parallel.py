"""Models in several processes: buffers that all share, and FSDP2, which spreads parameters over the processes."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Sequence

import torch
import torch.distributed as dist
from detectron2.utils import comm
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from detrex.config.validation import ConfigError
from detrex.utils.random_state import random_state, set_random_state

__all__ = ["broadcast_buffers", "shard", "whole_copy"]

logger = logging.getLogger(__name__)


@torch.no_grad()
def broadcast_buffers(model: nn.Module) -> None:
    """Give the first process's buffers to all others; called by all, does nothing in one process.

    Running statistics of BatchNorm differ from process to process, for each sees other images. Buffers that checkpoints
    do not keep, such as caches, stay as they are.

    Args:
        model: also in ``DistributedDataParallel`` or sharded by FSDP2.
    """
    if comm.get_world_size() == 1:
        return
    saved = model.state_dict().keys()
    groups: dict[torch.dtype, list[Tensor]] = defaultdict(list)
    for name, buffer in model.named_buffers():
        if name in saved:
            groups[buffer.dtype].append(buffer)
    for buffers in groups.values():  # one exchange for each type
        flat = torch.cat([buffer.flatten() for buffer in buffers])
        dist.broadcast(flat, src=0)
        for buffer, values in zip(buffers, flat.split([buffer.numel() for buffer in buffers]), strict=True):
            buffer.copy_(values.view_as(buffer))


def shard(model: nn.Module, units: Sequence[str], *, device: torch.device) -> nn.Module:
    """Spread a model over all processes, in place; its parameters become ``DTensor``.

    A unit's parameters are gathered just before it computes and freed right after; what is in no unit, with the model.

    Args:
        model: on ``device``; all processes take the first one's weights. units: class names of modules.

    Raises:
        ConfigError: there is one process only, or no module of such a class.
    """
    if comm.get_world_size() == 1:
        raise ConfigError("train.fsdp.enabled=true needs several processes, for example --num-gpus 8")
    found = [module for module in model.modules() if type(module).__name__ in units]
    if not found:
        raise ConfigError(f"train.fsdp.units: {type(model).__name__} has no module of the classes {list(units)}")
    for tensor in model.state_dict().values():
        dist.broadcast(tensor, src=0)
    mesh = init_device_mesh(device.type, (comm.get_world_size(),))
    for module in found:
        fully_shard(module, mesh=mesh)
    fully_shard(model, mesh=mesh)
    logger.info("FSDP2: %d units in %d processes", len(found) + 1, comm.get_world_size())
    return model


def whole_copy(model: nn.Module, build: Callable[[], nn.Module]) -> nn.Module:
    """A copy of a spread model that each process has whole.

    For evaluation, where the processes do not take as many steps as each other and cannot gather parameters together.

    Args:
        model: of all processes, which call this together. build: makes another such model;
            the random generators stay as they are.
    """
    before = random_state()
    target = build()
    set_random_state(before)
    state = model.state_dict()
    target.load_state_dict({k: v.full_tensor() if isinstance(v, DTensor) else v for k, v in state.items()})
    return target
