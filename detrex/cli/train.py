"""From a command line to one or several processes: ``--num-gpus``, several machines, torchrun, or SLURM."""

from __future__ import annotations

import argparse
import errno
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import torch
from detectron2.engine import default_argument_parser

from detrex.checkpoint import CheckpointError
from detrex.config import ConfigError
from detrex.data import BrokenImagesError
from detrex.distributed.errors import MachineError
from detrex.distributed.launch import EXIT_MACHINE, join_job, launched, leave, record_error, run_processes
from detrex.distributed.signals import EXIT_PREEMPTED, Preempted
from detrex.engine.train import config_from_args, main

__all__ = ["EXIT_CONFIG", "EXIT_MACHINE", "EXIT_NOT_FINITE", "EXIT_PREEMPTED", "build_parser", "run"]

EXIT_CONFIG = 2
EXIT_NOT_FINITE = 3

_DISK_ERRORS = {getattr(errno, name, None) for name in ("ENOSPC", "EDQUOT", "EFBIG", "EROFS", "EIO", "EACCES")}

_EPILOG = """
examples:
  one GPU, or the CPU if there is none:
    %(prog)s --config-file CONFIG.py
  eight GPUs, a smaller learning rate, twelve epochs:
    %(prog)s --config-file CONFIG.py --num-gpus 8 optimizer.lr=5e-5 train.max_iter=12ep
  two machines of eight GPUs (on the other one: --machine-rank 1):
    %(prog)s --config-file CONFIG.py --num-gpus 8 --num-machines 2 --machine-rank 0 --dist-url tcp://MACHINE0:29500
  two processes on the CPU:
    %(prog)s --config-file CONFIG.py --num-gpus 2 train.device=cpu
  under torchrun (with --num-gpus 0: on the CPU); tools/slurm_train.py is for SLURM:
    torchrun --nproc-per-node 2 %(prog)s --config-file CONFIG.py
  evaluate:
    %(prog)s --config-file CONFIG.py --eval-only train.init_checkpoint=output/model_final.pth

exit status:
  0  success
  2  wrong command line, config, data or checkpoint
  3  a loss or gradient that is not finite
  4  stopped by SIGTERM or SIGUSR1, and saved: the same command with --resume goes on
  5  memory, disk, a data worker or another process failed: --resume goes on from the last checkpoint
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
    parser.add_argument(
        "--dist-url",
        default="auto",
        help="where the processes meet: tcp://host:port of machine 0; auto: a free port, on one machine",
    )
    return parser


def run(argv: Sequence[str] | None = None, *, job: Callable[[argparse.Namespace], Any] = main) -> int:
    """Run ``job`` as the command line says and return the exit status.

    Args:
        argv: the command line without the program's name; None takes the process's own.
        job: what each process calls with the arguments.
    """
    args = build_parser().parse_args(argv)
    if launched():
        _work(args, job)
    try:
        cfg = config_from_args(args)  # wrong input shows once, before any process starts
        if args.num_gpus <= 1 and args.num_machines == 1:
            return _guarded(job, args)
        _check_gpus(args, cfg.train.device)
        return run_processes(
            _work,
            (args, job),
            num_processes=max(args.num_gpus, 1),
            num_machines=args.num_machines,
            machine_rank=args.machine_rank,
            dist_url=args.dist_url,
        )
    except (ConfigError, CheckpointError) as e:
        return _report(e)


def _work(args: argparse.Namespace, job: Callable[[argparse.Namespace], Any]) -> NoReturn:
    """Be one process of several."""
    try:
        status = _guarded(_join, args, job)
    except BaseException as e:
        leave(1, e)
    leave(status)


def _join(args: argparse.Namespace, job: Callable[[argparse.Namespace], Any]) -> None:
    cfg = config_from_args(args)
    join_job(device=cfg.train.device, timeout=cfg.train.dist_timeout)
    job(args)


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
    record_error(error)
    return status


def _check_gpus(args: argparse.Namespace, device: str) -> None:
    if not 0 <= args.machine_rank < args.num_machines:
        raise ConfigError(f"--machine-rank {args.machine_rank} is not one of --num-machines {args.num_machines}")
    if device == "cpu":
        if args.num_gpus > (os.cpu_count() or 1):
            raise ConfigError(f"--num-gpus {args.num_gpus} on the CPU, but this machine has {os.cpu_count()} cores")
        return
    on_cpu = "For several processes on the CPU add train.device=cpu"
    if args.num_gpus > torch.cuda.device_count():
        raise ConfigError(
            f"--num-gpus {args.num_gpus}, but PyTorch sees {torch.cuda.device_count()} GPUs here. {on_cpu}"
        )
    if torch.device(device if device != "auto" else "cuda").type != "cuda":
        raise ConfigError(f"--num-gpus {args.num_gpus} with train.device={device}. {on_cpu}")
