"""``detrex slurm``: a training as a SLURM job that saves when it is preempted or out of time, and is requeued."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from detrex.config import ConfigError
from detrex.distributed.errors import EXIT_MACHINE, EXIT_PREEMPTED, with_exit_status
from detrex.distributed.signals import received_signals
from detrex.engine.train import config_from_args

from . import train

__all__ = ["SlurmTraining", "build_parser", "main", "submit"]

_INSTALL = "detrex slurm needs submitit: pip install 'detrex[slurm]'"


def _submitit() -> Any:
    os.environ.setdefault("SUBMITIT_PREEMPT_SIGNAL", "USR1")  # read when it is imported, here and on the nodes
    try:
        import submitit
    except ImportError as e:
        raise ConfigError(_INSTALL) from e
    return submitit


class SlurmTraining:
    """What each node runs: ``detrex train`` with ``--resume`` and its place in the job.

    SIGUSR1, which SLURM sends before the time is over or the job is preempted, saves and stops the run; then submitit
    has the job requeued. SIGTERM (``scancel``) saves and stops it for good.

    Args:
        arguments: of ``detrex train``.
    """

    def __init__(self, arguments: Sequence[str]):
        self.arguments = list(arguments)

    def command_line(self, job: Any) -> list[str]:
        """Arguments for the node of a ``submitit.JobEnvironment``; the first node's host is where all meet."""
        place = ["--resume"]
        if job.num_nodes > 1:
            port = 20_000 + int("".join(filter(str.isdigit, job.job_id))) % 10_000
            place += ["--num-machines", f"{job.num_nodes}", "--machine-rank", f"{job.node}"]
            place += ["--dist-url", f"tcp://{job.hostnames[0]}:{port}"]
        return [*place, *self.arguments]

    def __call__(self) -> None:
        status = train.main(self.command_line(_submitit().JobEnvironment()))
        if status in (EXIT_PREEMPTED, EXIT_MACHINE) and "SIGUSR1" in received_signals():
            signal.raise_signal(signal.SIGUSR1)  # to submitit's handler, which calls checkpoint() and requeues
        if status:
            sys.exit(status)

    def checkpoint(self) -> Any:
        """For submitit: what the requeued job runs."""
        return _submitit().helpers.DelayedSubmission(self)


def build_parser() -> argparse.ArgumentParser:
    """The options of this command; those of ``detrex train`` follow them."""
    parser = argparse.ArgumentParser(
        prog="detrex slurm",
        usage="detrex slurm [options] [options of detrex train] [KEY=VALUE ...]",
        description="Submit a training as a SLURM job that is requeued when preempted. Options of detrex train follow.",
        epilog="example: detrex slurm --nodes 2 --partition gpu --time 1440 --config-file CONFIG.py --num-gpus 8",
        allow_abbrev=False,
    )
    parser.add_argument("--nodes", type=int, default=1)
    parser.add_argument("--partition")
    parser.add_argument("--time", type=int, default=1440, metavar="MINUTES", help="limit of one turn")
    parser.add_argument("--cpus", type=int, default=8, help="per process (per GPU)")
    parser.add_argument("--signal-delay", type=int, default=120, metavar="SECONDS", help="to save before the limit")
    parser.add_argument("--max-turns", type=int, default=100, help="how often to requeue a job that is out of time")
    parser.add_argument("--job-dir", default="", help="of submitit's files and logs; default: <train.output_dir>/slurm")
    parser.add_argument("--name", default="detrex")
    parser.add_argument("--slurm", action="append", default=[], metavar="KEY=VALUE", help="of sbatch, e.g. account=lab")
    parser.add_argument("--cluster", default="slurm", choices=["slurm", "local"], help="local: on this machine, to try")
    return parser


@with_exit_status()
def main(argv: Sequence[str] | None = None) -> int:
    """Submit as the command line says; returns the exit status: 0, or 2 for wrong input."""
    job = submit(argv)
    print(f"submitted as job {job.job_id}; its logs: {job.paths.stdout}")
    return 0


def submit(argv: Sequence[str] | None = None) -> Any:
    """Submit a training; the ``submitit.Job``.

    Args:
        argv: options of this command, then those of ``detrex train``; None takes the process's own.

    Raises:
        ConfigError: submitit is not installed, or anything wrong with the training's command line.
    """
    options, arguments = build_parser().parse_known_args(argv)
    training = train.build_parser().parse_intermixed_args(arguments)
    cfg = config_from_args(training)
    submitit = _submitit()
    root = str(Path(__file__).resolve().parents[2])  # for a source tree that is not installed
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    folder = options.job_dir or os.path.join(cfg.train.output_dir, "slurm")
    executor = submitit.AutoExecutor(folder, options.cluster, slurm_max_num_timeout=options.max_turns)
    executor.update_parameters(
        name=options.name,
        nodes=options.nodes,
        tasks_per_node=1,  # it starts a process per GPU
        cpus_per_task=options.cpus * max(training.num_gpus, 1),
        timeout_min=options.time,
        slurm_signal_delay_s=options.signal_delay,
        slurm_partition=options.partition,
        slurm_additional_parameters={"requeue": True, **_pairs(options.slurm)},
    )
    if training.num_gpus and cfg.train.device != "cpu":
        executor.update_parameters(gpus_per_node=training.num_gpus)
    return executor.submit(SlurmTraining(arguments))


def _pairs(words: Sequence[str]) -> dict[str, str]:
    absent = [word for word in words if "=" not in word]
    if absent:
        raise ConfigError(f"--slurm {absent[0]}: give KEY=VALUE")
    return dict(word.split("=", 1) for word in words)
