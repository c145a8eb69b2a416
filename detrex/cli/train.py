"""``detrex train`` and ``detrex evaluate``: from a command line to one or several processes."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from os.path import expanduser
from typing import Any, NoReturn

import torch

from detrex.config import ConfigError
from detrex.distributed.errors import (
    EXIT_CONFIG,
    EXIT_MACHINE,
    EXIT_NOT_FINITE,
    EXIT_PREEMPTED,
    with_exit_status,
)
from detrex.distributed.launch import check_alone, follow_launcher, is_part_of_job, join_job, launch, leave
from detrex.engine.train import config_from_args
from detrex.engine.train import main as train

__all__ = [
    "EXIT_CONFIG",
    "EXIT_MACHINE",
    "EXIT_NOT_FINITE",
    "EXIT_PREEMPTED",
    "build_parser",
    "evaluate",
    "main",
    "override",
]

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
  under torchrun (with --num-gpus 0: on the CPU); detrex slurm is for SLURM:
    torchrun --nproc-per-node 2 -m %(prog)s --config-file CONFIG.py
  evaluate:
    detrex evaluate --config-file CONFIG.py --weights output/model_final.pth

CONFIG.py is the path of a config file, or the name of one that is installed, such as
projects/deformable_detr/configs/custom_small.py.

exit status:
  0  success
  2  wrong command line, config, data or checkpoint
  3  a loss or gradient that is not finite
  4  stopped by SIGTERM or SIGUSR1, and saved: resume with the same command and --resume
  5  memory, disk, a data worker or another process failed: --resume continues from the last checkpoint
"""
_EVALUATE_EPILOG = """
examples:
  %(prog)s --config-file projects/deformable_detr/configs/custom_small.py --weights output/model_final.pth \\
      dataloader.data.root=path/to/data_set
  %(prog)s --config-file output/my_run/config.yaml --weights output/my_run/model_final.pth

exit status: 0 success, 2 wrong command line, config, data or checkpoint, 5 the machine failed
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


def build_parser(command: str = "train") -> argparse.ArgumentParser:
    """The command line, with the arguments that detectron2's tools have.

    Args:
        command: "train" or "evaluate".
    """
    training = command == "train"
    parser = _Parser(
        prog=f"detrex {command}",
        description="Train a detector that a config describes."
        if training
        else "Evaluate a detector on its test data.",
        epilog=_EPILOG if training else _EVALUATE_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--config-file", type=expanduser, default="", metavar="FILE", help="config of a run, .py or .yaml"
    )
    if training:
        parser.add_argument(
            "--resume",
            action="store_true",
            help="resume from the latest valid checkpoint in train.output_dir, or start from scratch if there is none. "
            "Also: --resume auto",
        )
        parser.add_argument("--eval-only", action="store_true", help="evaluate train.init_checkpoint")
    else:
        parser.add_argument(
            "--weights", type=expanduser, metavar="FILE", help="checkpoint: path or URL; sets train.init_checkpoint"
        )
        parser.set_defaults(resume=False, eval_only=True)
    parser.add_argument(
        "--num-gpus", type=int, default=1, metavar="N", help="on this machine, a process each (%(default)s); 0: the CPU"
    )
    parser.add_argument("--num-machines", type=int, default=1, metavar="N", help="machines of the job (%(default)s)")
    parser.add_argument("--machine-rank", type=int, default=0, metavar="I", help="index of this machine (%(default)s)")
    parser.add_argument(
        "--dist-url",
        default="auto",
        metavar="URL",
        help="where the processes meet: tcp://host:port of machine 0; auto: a free port, on one machine",
    )
    parser.add_argument("opts", nargs="*", default=[], metavar="KEY=VALUE", help="overrides of the config")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Train as the command line says; returns the exit status.

    Args:
        argv: the command line without the program's name; None takes the process's own.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    return _start(build_parser().parse_intermixed_args(words), "train", words)


def evaluate(argv: Sequence[str] | None = None) -> int:
    """Evaluate as the command line says; returns the exit status.

    Args:
        argv: the command line without the program's name; None takes the process's own.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    args = build_parser("evaluate").parse_intermixed_args(words)
    if args.weights is not None:
        args.opts = [*args.opts, override("train.init_checkpoint", args.weights)]
    return _start(args, "evaluate", words)


def override(key: str, value: str | os.PathLike[str]) -> str:
    """``key=value`` in the grammar of overrides, for any text."""
    text = str(value)
    plain = all(c.isalnum() or c in "/._-" for c in text)
    return f"{key}={text}" if plain else f"{key}={json.dumps(text, ensure_ascii=False)}"


@with_exit_status()
def _start(args: argparse.Namespace, command: str, words: Sequence[str]) -> int:
    """Train or evaluate in this process, or launch processes that run the same command."""
    if is_part_of_job():
        _be_one_of_several(args)
    cfg = config_from_args(args)  # wrong input shows once, before any process starts
    if args.num_gpus <= 1 and args.num_machines == 1:
        check_alone()
        train(args, cfg)
        return 0
    _check_gpus(args, cfg.train.device)
    return launch(
        "from detrex.__main__ import main; sys.argv[0] = 'detrex'; sys.exit(main())",
        [command, *words],
        num_processes=max(args.num_gpus, 1),
        num_machines=args.num_machines,
        machine_rank=args.machine_rank,
        dist_url=args.dist_url,
        timeout=cfg.train.dist_timeout,
    )


def _be_one_of_several(args: argparse.Namespace) -> NoReturn:
    follow_launcher()
    try:
        status = _join(args)
    except BaseException as e:
        leave(1, e)
    leave(status)


@with_exit_status()
def _join(args: argparse.Namespace) -> int:
    cfg = config_from_args(args)
    join_job(device=cfg.train.device, timeout=cfg.train.dist_timeout)
    train(args, cfg)
    return 0


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
