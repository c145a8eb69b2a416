"""From a command line to one or several processes: ``--num-gpus``, several machines, or torchrun."""

from __future__ import annotations

import argparse
import errno
import os
import sys
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from detectron2.engine import default_argument_parser
from detectron2.engine import launch as spawn
from detectron2.utils import comm
from torch.multiprocessing import ProcessExitedException

from detrex.checkpoint import CheckpointError
from detrex.config import ConfigError
from detrex.data import BrokenImagesError

from .faults import MachineError
from .preemption import EXIT_PREEMPTED, Preempted, pass_signals_on
from .train import config_from_args, main

__all__ = ["EXIT_CONFIG", "EXIT_MACHINE", "EXIT_NOT_FINITE", "EXIT_PREEMPTED", "build_parser", "run"]

EXIT_CONFIG = 2
EXIT_NOT_FINITE = 3
EXIT_MACHINE = 5

_DISK_ERRORS = {getattr(errno, name, None) for name in ("ENOSPC", "EDQUOT", "EFBIG", "EROFS", "EIO", "EACCES")}

_EPILOG = """
examples:
  one GPU, or the CPU if there is none:
    %(prog)s --config-file CONFIG.py
  eight GPUs, a smaller learning rate, twelve epochs:
    %(prog)s --config-file CONFIG.py --num-gpus 8 optimizer.lr=5e-5 train.max_iter=12ep
  under torchrun (with --num-gpus 0: on the CPU, over gloo):
    torchrun --nproc-per-node 2 %(prog)s --config-file CONFIG.py
  evaluate:
    %(prog)s --config-file CONFIG.py --eval-only train.init_checkpoint=output/model_final.pth

exit status:
  0  success
  2  wrong command line, config, data or checkpoint
  3  a loss or gradient that is not finite
  4  stopped by SIGTERM or SIGUSR1, and saved: the same command with --resume goes on
  5  memory, disk or a data worker failed: --resume goes on from the last checkpoint
"""


class _Parser(argparse.ArgumentParser):
    """Takes ``--resume auto`` for ``--resume``, which must not swallow the override that may follow it."""

    def parse_known_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:
        words = list(sys.argv[1:] if args is None else args)
        for i, word in enumerate(words[:-1]):
            if word == "--resume" and words[i + 1] == "auto":
                del words[i + 1]
                break
        return super().parse_known_args(words, namespace)


def build_parser() -> argparse.ArgumentParser:
    """detectron2's arguments; ``--num-gpus 0`` means the CPU."""
    parser = _Parser(
        parents=[default_argument_parser()],
        conflict_handler="resolve",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--resume",
        action="store_true",
        help="go on from the newest sound checkpoint in train.output_dir; without one, start. Also: --resume auto",
    )
    return parser


def run(argv: Sequence[str] | None = None, *, job: Callable[[argparse.Namespace], Any] = main) -> int:
    """Run ``job`` as the command line says and return the exit status.

    Args:
        argv: the command line without the program's name; None takes the process's own.
        job: what each process calls with the arguments.
    """
    args = build_parser().parse_args(argv)
    try:
        if _under_torchrun():
            return _guarded(_join_torchrun, args, job)
        cfg = config_from_args(args)  # wrong input shows once, before any process starts
        _check_gpus(args, cfg.train.device)
    except (ConfigError, CheckpointError) as e:
        return _report(e)
    if args.num_gpus * args.num_machines <= 1:
        return _guarded(job, args)
    pass_signals_on()
    try:
        spawn(
            _worker,
            args.num_gpus,
            num_machines=args.num_machines,
            machine_rank=args.machine_rank,
            dist_url=args.dist_url,
            args=(args, job),
        )
    except ProcessExitedException as e:  # the worker has said why
        return e.exit_code
    return 0


def _worker(args: argparse.Namespace, job: Callable[[argparse.Namespace], Any]) -> None:
    status = _guarded(job, args)
    if status:
        sys.exit(status)


def _guarded(function: Callable[..., Any], *args: Any) -> int:
    """Call ``function``; the exit status, with a message instead of a traceback where the input is at fault."""
    try:
        function(*args)
    except (ConfigError, CheckpointError, BrokenImagesError) as e:
        return _report(e)
    except FloatingPointError as e:
        return _report(e, EXIT_NOT_FINITE)
    except Preempted as e:
        print(e.message, file=sys.stderr)
        return EXIT_PREEMPTED
    except MachineError as e:
        return _report(e, EXIT_MACHINE)
    except OSError as e:
        if e.errno not in _DISK_ERRORS:
            raise
        return _report(e, EXIT_MACHINE)
    return 0


def _report(error: Exception, status: int = EXIT_CONFIG) -> int:
    print(f"error: {error}", file=sys.stderr)
    return status


def _check_gpus(args: argparse.Namespace, device: str) -> None:
    if args.num_machines == 1 and args.num_gpus <= 1:
        return
    on_cpu = "Several processes on the CPU: torchrun --nproc-per-node N ... --num-gpus 0"
    if args.num_gpus > torch.cuda.device_count():
        raise ConfigError(
            f"--num-gpus {args.num_gpus}, but PyTorch sees {torch.cuda.device_count()} GPUs here. {on_cpu}"
        )
    if args.num_gpus < 1 or torch.device(device if device != "auto" else "cuda").type != "cuda":
        raise ConfigError(
            f"--num-gpus {args.num_gpus} with train.device={device} on several machines or GPUs. {on_cpu}"
        )


def _under_torchrun() -> bool:
    return {"RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR"} <= os.environ.keys()


def _join_torchrun(args: argparse.Namespace, job: Callable[[argparse.Namespace], Any]) -> None:
    cfg = config_from_args(args)
    on_gpu = torch.cuda.is_available() and cfg.train.device != "cpu"
    if on_gpu:
        local_rank = int(os.environ["LOCAL_RANK"])
        if local_rank >= torch.cuda.device_count():
            raise ConfigError(
                f"local process {local_rank} has no GPU, there are {torch.cuda.device_count()}: lower --nproc-per-node"
            )
        torch.cuda.set_device(local_rank)
    dist.init_process_group("nccl" if on_gpu else "gloo", timeout=timedelta(minutes=30))
    try:
        comm.create_local_process_group(int(os.environ["LOCAL_WORLD_SIZE"]))
        job(args)
    finally:
        dist.destroy_process_group()
