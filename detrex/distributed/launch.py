"""The processes of a job: started by torch's elastic launcher, joined with those of other machines, ended together."""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, NoReturn

import torch
import torch.distributed as dist
from detectron2.utils import comm
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.elastic.rendezvous import RendezvousError
from torch.distributed.launcher import LaunchConfig, elastic_launch

from detrex.config.validation import ConfigError
from detrex.utils.text import count_of

from .errors import EXIT_MACHINE, MachineError, record_error
from .signals import hand_signals_on, received_signals

__all__ = ["check_alone", "end_process", "follow_launcher", "is_part_of_job", "join_job", "launch", "leave"]

logger = logging.getLogger(__name__)

# What launchers set for each process of a job, and what tells that they did.
_PLACE = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
_MARKS = {"RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR"}
_SIGNALS = "DETREX_SIGNALS"  # file with the names of the signals that the launcher received
_INTERVAL = 0.2  # seconds between two looks at the processes, or at the launcher
_GIVE_WAY = 30.0  # seconds that a process whose peers are gone leaves to them to say why


# ------------------------------------------------------------------------------------------------------ the launcher
def launch(
    program: str,
    arguments: Sequence[str],
    *,
    num_processes: int,
    num_machines: int = 1,
    machine_rank: int = 0,
    dist_url: str = "auto",
    timeout: float = 1800,
) -> int:
    """Run a program in processes of this machine, as torchrun does, and wait for them.

    torch's launcher starts and watches them, and ends the others when one fails. It is kept from ending them when it
    is asked to stop: they get the signal, save and end by themselves.

    Args:
        program: Python code, run with ``sys.path`` of this process. arguments: its ``sys.argv[1:]``.
        num_processes: on each machine. num_machines: of the job. machine_rank: index of this machine.
        dist_url: ``tcp://host:port`` of machine 0, where the machines meet; "auto" takes a free port, on one machine.
        timeout: seconds to wait for the other machines.

    Returns:
        0, or the status of the first process that failed (``EXIT_MACHINE`` for one that was killed).

    Raises:
        ConfigError: a ``dist_url`` that does not fit. MachineError: the other machines did not come.
    """
    meeting = _meeting_place(dist_url, num_machines, machine_rank)
    code = f"import sys; sys.path[:] = {sys.path!r}; {program}"
    # It would report each signal that it sends; the first failure is named below.
    logging.getLogger("torch.distributed.elastic.multiprocessing.api").setLevel(logging.CRITICAL)
    with tempfile.TemporaryDirectory(prefix="detrex_") as folder:
        signals = Path(folder) / "signals"
        os.environ[_SIGNALS] = str(signals)
        config = LaunchConfig(
            min_nodes=num_machines,
            max_nodes=num_machines,
            nproc_per_node=num_processes,
            run_id="detrex",
            role="process",
            max_restarts=0,
            monitor_interval=_INTERVAL,
            logs_specs=DefaultLogsSpecs(log_dir=folder),
            **meeting,
        )
        config.rdzv_configs["timeout"] = round(timeout)
        try:
            with hand_signals_on(signals):
                elastic_launch(config, sys.executable)("-c", code, *arguments)
        except ChildFailedError as e:
            return _report(e, num_processes * num_machines)
        except SignalException as e:
            print(f"error: ended by {e.sigval.name}", file=sys.stderr)
            return 128 + e.sigval
        except (dist.DistError, RendezvousError) as e:
            raise MachineError(
                f"machine {machine_rank} of {num_machines} did not meet the others at {dist_url} within {timeout:.0f} "
                f"s (train.dist_timeout): {str(e).splitlines()[0]}"
            ) from e
        finally:
            del os.environ[_SIGNALS]
    return 0


def _meeting_place(dist_url: str, num_machines: int, machine_rank: int) -> dict[str, Any]:
    if dist_url == "auto" and num_machines == 1:
        return {"rdzv_backend": "c10d", "rdzv_endpoint": "127.0.0.1:0", "local_addr": "127.0.0.1"}
    host, separator, port = dist_url.removeprefix("tcp://").rpartition(":")
    if not (dist_url.startswith("tcp://") and host and separator and port.isdigit()):
        alternative = ' or "auto"' if num_machines == 1 else ", a port of machine 0"
        raise ConfigError(f"--dist-url {dist_url}: give tcp://host:port{alternative}")
    endpoint = dist_url.removeprefix("tcp://")
    return {"rdzv_backend": "static", "rdzv_endpoint": endpoint, "rdzv_configs": {"rank": machine_rank}}


def _report(error: ChildFailedError, world_size: int) -> int:
    """Name the process that failed first; its exit status."""
    rank, failure = error.get_first_failure()
    killed = failure.exitcode < 0
    how = f"was killed by {failure.signal_name()}" if killed else f"ended with status {failure.exitcode}"
    print(f"error: process {rank} of {world_size} (pid {failure.pid}) {how}", file=sys.stderr)
    return EXIT_MACHINE if killed else failure.exitcode


# ----------------------------------------------------------------------------------------------------- each process
def is_part_of_job() -> bool:
    """Whether this is a process of a job, started by torchrun, :func:`launch` or anything that does as they."""
    return os.environ.keys() >= _MARKS


def check_alone() -> None:
    """Check that this process is not one of several.

    Raises:
        ConfigError: the environment says that it is, but not where the others are.
    """
    world_size = os.environ.get("WORLD_SIZE", "1")
    if world_size != "1" and not is_part_of_job():
        absent = [name for name in _PLACE if name not in os.environ]
        raise ConfigError(
            f"WORLD_SIZE={world_size} says that this is one process of several, but {', '.join(absent)} "
            f"{'is' if len(absent) == 1 else 'are'} not set. Start the processes with --num-gpus or torchrun, or unset "
            "WORLD_SIZE to run one process"
        )


def join_job(*, device: str, timeout: float) -> None:
    """Meet the other processes: NCCL on GPUs, Gloo on CPUs.

    Args:
        device: ``train.device``. timeout: seconds for the meeting and for each collective operation.

    Raises:
        ConfigError: there is no GPU for this process, or the launcher's environment is incomplete or contradictory.
        MachineError: the others did not come.
    """
    absent = [name for name in _PLACE if name not in os.environ]
    if absent:
        raise ConfigError(f"RANK is set, so this is a process of a job, but the launcher did not set {absent}")
    place = {name: os.environ[name] for name in _PLACE}
    numbers = {name: int(value) if value.isdigit() else -1 for name, value in place.items() if name != "MASTER_ADDR"}
    if min(numbers.values()) < 0 or numbers["RANK"] >= numbers["WORLD_SIZE"]:
        given = ", ".join(f"{name}={value}" for name, value in place.items())
        raise ConfigError(f"{given}: the launcher must set numbers, and RANK below WORLD_SIZE")
    local_rank, world = numbers["LOCAL_RANK"], numbers["WORLD_SIZE"]
    on_gpu = torch.cuda.is_available() and device != "cpu"
    if on_gpu:
        if local_rank >= torch.cuda.device_count():
            raise ConfigError(
                f"local process {local_rank} has no GPU, there are {torch.cuda.device_count()}: start fewer"
            )
        torch.cuda.set_device(local_rank)
    where = f"{place['MASTER_ADDR']}:{place['MASTER_PORT']}"
    logger.info("Process %d waits for the others of %s at %s", numbers["RANK"], count_of(world, "process"), where)
    try:
        dist.init_process_group("nccl" if on_gpu else "gloo", timeout=timedelta(seconds=timeout))
        comm.create_local_process_group(numbers["LOCAL_WORLD_SIZE"])
        comm.synchronize()
    except RuntimeError as e:
        raise MachineError(
            f"process {numbers['RANK']} of {world} did not meet all others at {where} within {timeout:.0f} s "
            f"(train.dist_timeout): {str(e).splitlines()[0]}"
        ) from e


def follow_launcher() -> None:
    """Watch torch's launcher from a thread: end when it is gone, and take over the signals that it received."""
    if "TORCHELASTIC_RUN_ID" in os.environ:
        threading.Thread(target=_watch_launcher, args=(os.getppid(),), daemon=True).start()


def _watch_launcher(launcher: int) -> None:
    signals, taken = os.environ.get(_SIGNALS, os.devnull), 0
    while os.getppid() == launcher:
        with contextlib.suppress(FileNotFoundError):
            names = Path(signals).read_text().split()
            for name in names[taken:]:
                os.kill(os.getpid(), getattr(signal, name))
            taken = len(names)
        time.sleep(_INTERVAL)
    end_process(f"process {os.environ['RANK']}: its launcher is gone")


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
