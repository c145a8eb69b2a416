"""Starting the processes of a job."""

import logging
import socket
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from detectron2.utils import comm

__all__ = ["DEFAULT_TIMEOUT", "launch"]

DEFAULT_TIMEOUT = timedelta(minutes=30)


def launch(
    main_func: Callable[..., Any],
    num_gpus_per_machine: int,
    num_machines: int = 1,
    machine_rank: int = 0,
    dist_url: str | None = None,
    args: tuple[Any, ...] = (),
    timeout: timedelta = DEFAULT_TIMEOUT,
) -> None:
    """Run ``main_func(*args)`` in every process of a job, and wait for the processes of this machine.

    A job of one process runs in this process, without a process group. To be called on every machine.

    Args:
        main_func: importable by name, as the processes are spawned.
        num_gpus_per_machine: number of processes per machine: one per GPU with NCCL, or any number with Gloo where
            there is no GPU.
        num_machines: number of machines.
        machine_rank: index of this machine.
        dist_url: where the processes meet, such as ``tcp://host:port``; "auto" (also the meaning of None) takes a free
            port, on one machine.
        args: arguments of ``main_func``.
        timeout: of the collective operations.

    Raises:
        ValueError: "auto" for several machines.
        torch.multiprocessing.ProcessRaisedException: a process failed; its traceback is in the message.
    """
    world_size = num_machines * num_gpus_per_machine
    if world_size <= 1:
        main_func(*args)
        return
    if dist_url in (None, "auto"):
        if num_machines > 1:
            raise ValueError(
                "dist_url='auto' is for one machine; for several, name a port of machine 0: tcp://host:port"
            )
        dist_url = f"tcp://127.0.0.1:{_free_port()}"
    if num_machines > 1 and dist_url.startswith("file://"):
        logging.getLogger(__name__).warning("file:// is unreliable across machines. Prefer tcp://")
    mp.start_processes(
        _run_process,
        nprocs=num_gpus_per_machine,
        args=(main_func, world_size, num_gpus_per_machine, machine_rank, dist_url, args, timeout),
        daemon=False,
    )


def _free_port() -> int:
    # Another process may take it before we do; rare, and the rendezvous then fails loudly.
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def _run_process(
    local_rank: int,
    main_func: Callable[..., Any],
    world_size: int,
    num_processes: int,
    machine_rank: int,
    dist_url: str,
    args: tuple[Any, ...],
    timeout: timedelta,
) -> None:
    has_gpu = torch.cuda.is_available()
    if has_gpu and num_processes > torch.cuda.device_count():
        raise ValueError(f"{num_processes} processes were asked for, but there are {torch.cuda.device_count()} GPUs.")
    try:
        dist.init_process_group(
            backend="nccl" if has_gpu else "gloo",
            init_method=dist_url,
            world_size=world_size,
            rank=machine_rank * num_processes + local_rank,
            timeout=timeout,
        )
    except Exception:
        logging.getLogger(__name__).error("Process group URL: %s", dist_url)
        raise
    if has_gpu:
        torch.cuda.set_device(local_rank)
    comm.create_local_process_group(num_processes)
    # Without this a process that is slow to start can run into the timeout of another one's first collective.
    comm.synchronize()
    main_func(*args)
    dist.destroy_process_group()  # not after a failure, where the other processes might not take part
