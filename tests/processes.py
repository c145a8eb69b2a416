"""Functions run as the processes of one job over Gloo, for tests; never an endless wait.

A process ends by ``os._exit``: when DistributedDataParallel's reducer is what frees a Gloo group, it joins the group's
threads with the interpreter's lock held, and a thread that has a Python tensor to free waits for that lock for ever
(pytorch/pytorch#56297). A job whose processes are not done after ``timeout`` shows their stacks and fails.
"""

from __future__ import annotations

import faulthandler
import multiprocessing
import os
import sys
import time
import traceback
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

_CONTEXT = multiprocessing.get_context("forkserver")  # a fork of a process that has threads may hang
_CONTEXT.set_forkserver_preload(["torch._dynamo", "detrex.cli.train"])


def run_job(function: Callable[..., Any], world: int, *args: Any, folder: Path, timeout: float = 120) -> None:
    """Call ``function(rank, world, *args)`` in ``world`` processes with a process group, and wait for all of them.

    Args:
        function: importable by name. folder: what rank r prints goes to ``<folder>/rank<r>.txt``.
        timeout: seconds for all of it.

    Raises:
        AssertionError: a process failed, or was not done in time; with what all of them printed.
    """
    # This process holds the store, at a port that the system chose: nobody can take it in between.
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    outputs = [folder / f"rank{rank}.txt" for rank in range(world)]
    processes = [
        _CONTEXT.Process(target=_run, args=(function, rank, world, store.port, args, outputs[rank], timeout))
        for rank in range(world)
    ]
    for process in processes:
        process.start()
    end = time.monotonic() + timeout + 20  # they end themselves first
    for process in processes:
        process.join(max(end - time.monotonic(), 0.1))
    for process in processes:
        if process.exitcode is None:
            process.kill()
            process.join()
    statuses = [process.exitcode for process in processes]
    messages = "\n".join(f"--- rank {i}\n{path.read_text()}" for i, path in enumerate(outputs) if path.exists())
    assert statuses == [0] * world, f"exit statuses {statuses}\n{messages}"


def _run(
    function: Callable[..., Any], rank: int, world: int, port: int, args: tuple, output: Path, timeout: float
) -> None:
    status = 1
    with output.open("w", buffering=1) as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        faulthandler.dump_traceback_later(timeout, exit=True, file=file)
        try:
            torch.set_num_threads(1)
            torch.manual_seed(0)
            store = dist.TCPStore("127.0.0.1", port, is_master=False, wait_for_workers=False)
            limit = timedelta(seconds=timeout)
            dist.init_process_group("gloo", store=store, rank=rank, world_size=world, timeout=limit)
            function(rank, world, *args)
            dist.barrier()
            status = 0
        except BaseException:
            traceback.print_exc(file=file)
        sys.stdout.flush()
        file.flush()
        os._exit(status)
