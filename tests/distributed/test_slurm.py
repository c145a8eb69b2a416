"""What would be submitted to SLURM, what a node runs, and a job that is preempted and requeued."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import pytest
import torch
from stub_detector import write_config

from detrex.cli.slurm import SlurmTraining, submit
from detrex.config import ConfigError

os.environ.setdefault("SUBMITIT_PREEMPT_SIGNAL", "USR1")
submitit = pytest.importorskip("submitit")


@pytest.fixture(autouse=True)
def _environment(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))  # the stub is found by the jobs
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.fixture
def sbatch(tmp_path, monkeypatch) -> Path:
    """The batch file that a stand-in of SLURM's ``sbatch`` was given."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, lines in {"sbatch": f"cp $1 {tmp_path}/batch.sh\necho Submitted batch job 1234", "srun": ""}.items():
        (folder / name).write_text(f"#!/bin/sh\n{lines}\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return tmp_path / "batch.sh"


def test_what_is_submitted(tmp_path, sbatch):
    options = ["--nodes", "2", "--partition", "gpu", "--time", "90", "--cpus", "4", "--slurm", "account=lab"]
    training = ["--config-file", str(write_config(tmp_path)), "--num-gpus", "8", "train.device=cuda", "optimizer.lr=1"]
    job = submit([*options, *training])
    assert job.job_id == "1234"
    batch = {line.removeprefix("#SBATCH --") for line in sbatch.read_text().splitlines() if line.startswith("#SBATCH")}
    assert {
        "nodes=2",
        "ntasks-per-node=1",
        "gpus-per-node=8",
        "cpus-per-task=32",
        "time=90",
        "partition=gpu",
        "account=lab",
        "signal=USR1@120",
        "requeue",
        "open-mode=append",
        "job-name=detrex",
    } <= batch
    assert job.submission().function.arguments == training


def test_wrong_input_shows_before_anything_is_submitted(tmp_path, sbatch):
    training = ["--config-file", str(write_config(tmp_path))]
    with pytest.raises(ConfigError, match=r"optimizer\.lrr"):
        submit([*training, "optimizer.lrr=1"])
    with pytest.raises(ConfigError, match="--slurm account: give KEY=VALUE"):
        submit(["--slurm", "account", *training])
    assert not sbatch.exists()


def test_what_a_node_runs(monkeypatch):
    monkeypatch.setenv("SUBMITIT_EXECUTOR", "slurm")
    for name, value in {"JOB_ID": "71234", "JOB_NUM_NODES": "2", "NODEID": "1", "JOB_NODELIST": "n[07-08]"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    command = SlurmTraining(["--config-file", "c.py", "--num-gpus", "8", "a=1"]).command_line(submitit.JobEnvironment())
    place = "--resume --num-machines 2 --machine-rank 1 --dist-url tcp://n07:21234"
    assert " ".join(command) == f"{place} --config-file c.py --num-gpus 8 a=1"
    monkeypatch.setenv("SLURM_JOB_NUM_NODES", "1")
    assert SlurmTraining(["--config-file", "c.py"]).command_line(submitit.JobEnvironment())[:2] == [
        "--resume",
        "--config-file",
    ]


def test_a_preempted_job_saves_is_requeued_and_resumes(tmp_path):
    """On submitit's local cluster, which requeues as SLURM does."""
    output = tmp_path / "output"
    training = ["--config-file", str(write_config(tmp_path)), f"train.output_dir={output}", "train.log_period=1"]
    job = submit(["--cluster", "local", *training, "train.max_iter=1000ep", "train.eval_period=0"])
    log = output / "log.txt"
    end = time.monotonic() + 120
    while not (log.exists() and "iter: 20 " in log.read_text()):
        assert time.monotonic() < end, job.stderr()
        assert not job.done(), job.stderr()
        time.sleep(0.05)
    controller = int(job.job_id)
    for task in Path(f"/proc/{controller}/task/{controller}/children").read_text().split():
        os.kill(int(task), signal.SIGUSR1)
    while log.read_text().count("Starting training from iteration") < 2:
        assert time.monotonic() < end, job.stderr()
        assert not job.done(), job.stderr()
        time.sleep(0.05)
    text = log.read_text()
    job.cancel()
    saved = max(int(path.stem[6:]) for path in output.glob("model_0*.pth"))
    assert f"stopped by SIGUSR1 after iteration {saved}, saved" in text
    assert f"Starting training from iteration {saved + 1}" in text
    assert torch.load(output / f"model_{saved:07d}.pth", weights_only=True)["iteration"] == saved
