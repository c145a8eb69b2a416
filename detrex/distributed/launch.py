"""The processes of a job on this machine: started, joined with those of other machines, and ended together."""

from __future__ import annotations

import atexit
import contextlib
import logging
import multiprocessing
import os
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from datetime import timedelta
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from typing import Any, NoReturn

import torch
import torch.distributed as dist
from detectron2.utils import comm

from detrex.config.validation import ConfigError

from .errors import EXIT_MACHINE, MachineError, record_error
from .signals import passing_signals_on, received_signals

__all__ = ["end_process", "join_job", "launched", "leave", "run_processes"]

logger = logging.getLogger(__name__)

_PLACE = {"RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR"}  # the environment of a process of a job ...
_ALL_OF_PLACE = {*_PLACE, "LOCAL_WORLD_SIZE", "MASTER_PORT"}  # ... and what else it needs
_CONTEXT = multiprocessing.get_context("spawn")
_LOOK = 0.2  # seconds
_GRACE = 5.0  # seconds for processes to end by themselves once one has failed
_GIVE_WAY = 30.0  # seconds that one whose peers are gone leaves to them to say why


# ------------------------------------------------------------------------------------------------------ the launcher
def run_processes(
    function: Callable[..., Any],
    args: tuple[Any, ...],
    *,
    num_processes: int,
    num_machines: int = 1,
    machine_rank: int = 0,
    dist_url: str = "auto",
) -> int:
    """Call ``function(*args)`` in processes of this machine, with the environment that torchrun gives, and wait.

    When a process fails, the others have five seconds to end before they are killed. Signals that ask to stop are
    passed on to all of them; processes whose launcher is gone end as well.

    Args:
        function: importable by name; its process ends with the status that it exits with.
        num_processes: on each machine. num_machines: of the job. machine_rank: index of this machine.
        dist_url: ``tcp://host:port`` of machine 0, where the processes meet; "auto" takes a free port, on one machine.

    Returns:
        0, or the status of the first process that failed (``EXIT_MACHINE`` for one that was killed).

    Raises:
        ConfigError: a ``dist_url`` that does not fit.
    """
    host, port = _meeting_place(dist_url, num_machines)
    shared = {"MASTER_ADDR": host, "MASTER_PORT": port, "LOCAL_WORLD_SIZE": f"{num_processes}"}
    shared["WORLD_SIZE"] = f"{num_processes * num_machines}"
    processes: list[BaseProcess] = []
    with passing_signals_on(processes):
        for i in range(num_processes):
            environment = {**shared, "LOCAL_RANK": f"{i}", "RANK": f"{machine_rank * num_processes + i}"}
            process = _CONTEXT.Process(target=_enter, args=(environment, function, args), name=environment["RANK"])
            process.start()
            processes.append(process)
        try:
            failed = _first_failure(processes)
        finally:
            ended = _end(processes)
    if failed is None:
        return 0
    how = f"ended with status {failed.exitcode}"
    if failed.exitcode < 0:
        how = f"was killed by {signal.Signals(-failed.exitcode).name}"
    others = f"; {ended} other processes on this machine were then ended" if ended else ""
    print(f"error: process {failed.name} of {shared['WORLD_SIZE']} (pid {failed.pid}) {how}{others}", file=sys.stderr)
    return EXIT_MACHINE if failed.exitcode < 0 else failed.exitcode


def _meeting_place(dist_url: str, num_machines: int) -> tuple[str, str]:
    if dist_url == "auto" and num_machines == 1:
        with socket.socket() as probe:  # should another process take it before we do, this one fails with a message
            probe.bind(("127.0.0.1", 0))
            return "127.0.0.1", str(probe.getsockname()[1])
    host, separator, port = dist_url.removeprefix("tcp://").rpartition(":")
    if not (dist_url.startswith("tcp://") and host and separator and port.isdigit()):
        alternative = ' or "auto"' if num_machines == 1 else ", a port of machine 0"
        raise ConfigError(f"--dist-url {dist_url}: give tcp://host:port{alternative}")
    return host.strip("[]"), port


def _enter(environment: dict[str, str], function: Callable[..., Any], args: tuple[Any, ...]) -> None:
    os.environ.update(environment)
    threading.Thread(target=_end_with_launcher, daemon=True).start()
    function(*args)


def _end_with_launcher() -> None:
    multiprocessing.parent_process().join()
    end_process(f"process {os.environ['RANK']}: its launcher is gone")


def _first_failure(processes: Sequence[BaseProcess]) -> BaseProcess | None:
    running = list(processes)
    while running:
        wait([process.sentinel for process in running], _LOOK)  # data workers may hold the sentinel of a dead process
        statuses = [(process, process.exitcode) for process in running]
        for process, status in statuses:
            if status:
                return process
        running = [process for process, status in statuses if status is None]
    return None


def _end(processes: Sequence[BaseProcess]) -> int:
    """Wait a little for all processes, and kill those that are left; their number."""
    end = time.monotonic() + _GRACE
    while time.monotonic() < end and any(process.exitcode is None for process in processes):
        time.sleep(_LOOK)
    left = [process for process in processes if process.exitcode is None]
    for process in left:
        process.kill()
    for process in left:
        while process.exitcode is None:
            time.sleep(_LOOK)
    return len(left)


# ----------------------------------------------------------------------------------------------------- each process
def launched() -> bool:
    """Whether this is a process of a job, started by torchrun, :func:`run_processes` or anything that does as they."""
    return os.environ.keys() >= _PLACE


def join_job(*, device: str, timeout: float) -> None:
    """Meet the other processes: NCCL on GPUs, Gloo on CPUs.

    Args:
        device: ``train.device``. timeout: seconds for the meeting and for each collective operation.

    Raises:
        ConfigError: there is no GPU for this process, or the launcher's environment is incomplete.
        MachineError: the others did not come.
    """
    absent = sorted(_ALL_OF_PLACE - os.environ.keys())
    if absent:
        raise ConfigError(f"RANK is set, so this is a process of a job, but the launcher did not set {absent}")
    on_gpu = torch.cuda.is_available() and device != "cpu"
    if on_gpu:
        local_rank = int(os.environ["LOCAL_RANK"])
        if local_rank >= torch.cuda.device_count():
            raise ConfigError(
                f"local process {local_rank} has no GPU, there are {torch.cuda.device_count()}: start fewer"
            )
        torch.cuda.set_device(local_rank)
    try:
        dist.init_process_group("nccl" if on_gpu else "gloo", timeout=timedelta(seconds=timeout))
        comm.create_local_process_group(int(os.environ["LOCAL_WORLD_SIZE"]))
        comm.synchronize()
    except RuntimeError as e:
        where = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        raise MachineError(
            f"process {os.environ['RANK']} of {os.environ['WORLD_SIZE']} did not meet all others at {where} within "
            f"{timeout:.0f} s: {str(e).splitlines()[0]}"
        ) from e


def leave(status: int, error: BaseException | None = None) -> NoReturn:
    """End this process of a job; when all went well, together with the others.

    It ends without tearing its process groups down: where DistributedDataParallel or the interpreter's end frees one
    of Gloo's, a process may wait for itself for ever (pytorch/pytorch#56297).

    Args:
        status: exit status. error: printed; a process that lost another lets that one's error come first.
    """
    if error is not None:
        if _is_of_communication(error):
            _give_way(error)
        traceback.print_exception(error)
        record_error(error)
    elif status == 0 and dist.is_initialized():
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()
        with contextlib.suppress(RuntimeError):  # the work is done, whatever became of the others
            comm.all_gather(None)
    atexit._run_exitfuncs()  # data workers, log files
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _is_of_communication(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error).lower()):
            return True
        error = error.__cause__
    return False


def _give_way(error: BaseException) -> None:
    """Let the launcher end this process, so that the error of the one that failed is the first."""
    for name in ("SIGTERM", "SIGUSR1"):
        signal.signal(getattr(signal, name), signal.SIG_DFL)
    if received_signals():  # the launcher has asked already
        return
    first = str(error).splitlines()[0]
    logger.warning("Lost another process of the job, whose message tells why; ending in %.0f s: %s", _GIVE_WAY, first)
    time.sleep(_GIVE_WAY)


def end_process(message: str) -> NoReturn:
    """End this process from any of its threads, at once, with a message."""
    os.write(2, f"error: {message}\n".encode())
    try:
        raise MachineError(message)  # what torchrun shows is the error that is being handled
    except MachineError as e:
        record_error(e)
    os._exit(EXIT_MACHINE)
