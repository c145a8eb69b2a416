"""Communication between the processes of a job. Every function works, and does nothing, in a single process."""

import functools
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

# The processes of this machine. Launchers other than ``launch`` may assign it directly.
_LOCAL_PROCESS_GROUP: dist.ProcessGroup | None = None


def _initialized() -> bool:
    return dist.is_available() and dist.is_initialized()


def get_world_size() -> int:
    """Number of processes in the job."""
    return dist.get_world_size() if _initialized() else 1


def get_rank() -> int:
    """Index of this process in the job."""
    return dist.get_rank() if _initialized() else 0


def is_main_process() -> bool:
    """Whether this is the process of rank 0."""
    return get_rank() == 0


def create_local_process_group(num_workers_per_machine: int) -> None:
    """Create the group of the processes on this machine; all processes of the job call it together.

    Args:
        num_workers_per_machine: the number of processes on every machine; ranks are consecutive within a machine.

    Raises:
        AssertionError: the group exists already, or the world size is not a multiple of the number.
    """
    global _LOCAL_PROCESS_GROUP  # noqa: PLW0603 -- launchers rely on the name
    assert _LOCAL_PROCESS_GROUP is None, "The local process group exists already."
    world_size = get_world_size()
    assert world_size % num_workers_per_machine == 0, (
        f"World size {world_size} is not a multiple of {num_workers_per_machine} processes per machine."
    )
    machine = get_rank() // num_workers_per_machine
    # Every process takes part in the creation of every group, its own or not.
    starts = range(0, world_size, num_workers_per_machine)
    groups = [dist.new_group(list(range(start, start + num_workers_per_machine))) for start in starts]
    _LOCAL_PROCESS_GROUP = groups[machine]


def get_local_process_group() -> dist.ProcessGroup:
    """The group of the processes on this machine.

    Raises:
        AssertionError: :func:`create_local_process_group` was not called.
    """
    assert _LOCAL_PROCESS_GROUP is not None, (
        "There is no local process group. Start the processes by detectron2.engine.launch, or call "
        "comm.create_local_process_group(num_workers_per_machine) after torch.distributed.init_process_group()."
    )
    return _LOCAL_PROCESS_GROUP


def get_local_rank() -> int:
    """Index of this process on its machine."""
    return dist.get_rank(group=get_local_process_group()) if _initialized() else 0


def get_local_size() -> int:
    """Number of processes on this machine."""
    return dist.get_world_size(group=get_local_process_group()) if _initialized() else 1


def synchronize() -> None:
    """Wait until every process of the job is here."""
    if get_world_size() == 1:
        return
    if dist.get_backend() == dist.Backend.NCCL:
        dist.barrier(device_ids=[torch.cuda.current_device()])
    else:
        dist.barrier()


@functools.lru_cache(maxsize=1)
def _gloo_group(world: dist.ProcessGroup) -> dist.ProcessGroup:
    # Objects travel over the CPU, which spares GPU memory. Cached per world, so that a re-initialised job gets its own.
    return dist.new_group(backend="gloo") if dist.get_backend(world) == dist.Backend.NCCL else world


def _group_of(group: dist.ProcessGroup | None) -> dist.ProcessGroup | None:
    """The group to communicate in, or None if there is nobody to communicate with."""
    if get_world_size() == 1:
        return None
    group = group or _gloo_group(dist.group.WORLD)
    return group if dist.get_world_size(group) > 1 else None


def all_gather(data: Any, group: dist.ProcessGroup | None = None) -> list[Any]:
    """The objects of all processes of ``group`` (default: the job), by rank. ``data`` is anything that pickles."""
    group = _group_of(group)
    if group is None:
        return [data]
    output = [None] * dist.get_world_size(group)
    dist.all_gather_object(output, data, group=group)
    return output


def gather(data: Any, dst: int = 0, group: dist.ProcessGroup | None = None) -> list[Any]:
    """Like :func:`all_gather`, for the process of rank ``dst`` only; the others get an empty list."""
    group = _group_of(group)
    if group is None:
        return [data]
    output = [None] * dist.get_world_size(group) if dist.get_rank() == dst else None
    dist.gather_object(data, output, dst=dst, group=group)
    return output or []


def broadcast(data: Any) -> Any:
    """Return the object of rank 0; that of the others is ignored."""
    group = _group_of(None)
    if group is None:
        return data
    box = [data]
    dist.broadcast_object_list(box, src=0, group=group)
    return box[0]


def shared_random_seed() -> int:
    """A random seed that is the same in all processes; all must call it."""
    return all_gather(np.random.randint(2**31))[0]  # noqa: NPY002 -- follows seed_all_rng


def reduce_dict(input_dict: dict[str, torch.Tensor], average: bool = True) -> dict[str, torch.Tensor]:
    """Sum, or average, the scalar tensors of all processes key by key; only rank 0 gets the result."""
    world_size = get_world_size()
    if world_size == 1:
        return input_dict
    with torch.no_grad():
        names = sorted(input_dict)  # one order in all processes
        values = torch.stack([input_dict[name] for name in names])
        dist.reduce(values, dst=0)
        if average and is_main_process():
            values /= world_size
        return dict(zip(names, values, strict=True))
