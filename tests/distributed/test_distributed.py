"""Two processes on the CPU, started by torchrun as users start it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch
from detectron2.utils import comm
from omegaconf import OmegaConf
from stub_detector import NUM_BOXES, write_config

from detrex.cli.train import evaluate
from detrex.cli.train import main as run
from detrex.config import ConfigError
from detrex.engine.run_config import check_batch_size

ROOT = Path(__file__).parents[2]
PLACE = {  # what a launcher sets for the first of two processes
    "RANK": "0",
    "WORLD_SIZE": "2",
    "LOCAL_RANK": "0",
    "LOCAL_WORLD_SIZE": "2",
    "MASTER_ADDR": "127.0.0.1",
    "MASTER_PORT": "1",
}


def torchrun(config: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command += [str(ROOT / "tools" / "train_net.py"), "--config-file", str(config), "--num-gpus", "0", *options]
    path = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240, check=False)


def records(output: Path) -> list[dict]:
    return [json.loads(line) for line in (output / "metrics.json").read_text().splitlines()]


def test_two_processes_train_as_one_with_the_same_total_batch(tmp_path):
    config = write_config(tmp_path, num_images=11)
    one, two = tmp_path / "one", tmp_path / "two"
    assert run(["--config-file", str(config), f"train.output_dir={one}", "train.log_period=1"]) == 0
    process = torchrun(config, f"train.output_dir={two}", "train.log_period=1")
    assert process.returncode == 0, process.stderr

    assert (two / "log.txt.rank1").is_file()
    assert "Process 0 of 2 on cpu" in (two / "log.txt").read_text()
    a, b = records(one), records(two)
    assert [r["iteration"] for r in a] == [r["iteration"] for r in b]
    for x, y in zip(a, b, strict=True):
        for key in ("total_loss", "loss_bbox", "lr", "grad_norm"):
            if key in x:
                assert y[key] == pytest.approx(x[key], rel=1e-4), (x["iteration"], key)
    # Eleven images cannot be shared evenly; each is evaluated once all the same.
    assert b[-1]["bbox/AP"] == pytest.approx(a[-1]["bbox/AP"], abs=1e-6)
    detections = json.loads((two / "coco_instances_results.json").read_text())
    assert Counter(d["image_id"] for d in detections) == dict.fromkeys(range(1, 12), NUM_BOXES)
    weights = [torch.load(p / "model_final.pth", weights_only=True)["model"] for p in (one, two)]
    for name in weights[0]:
        torch.testing.assert_close(weights[0][name], weights[1][name], rtol=1e-3, atol=1e-5)


def test_an_evaluation_by_the_command_in_two_processes_is_that_of_one(tmp_path, monkeypatch):
    """``--num-gpus`` as users give it: torch's launcher starts the processes, which say what they were asked."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    config = write_config(tmp_path, num_images=11)
    trained = tmp_path / "trained"
    assert run(["--config-file", str(config), f"train.output_dir={trained}", "train.max_iter=3"]) == 0
    options = ["--config-file", str(config), "--weights", str(trained / "model_final.pth"), "train.device=cpu"]
    lines = []
    for number in (1, 2):
        output = tmp_path / f"{number}"
        assert evaluate([*options, "--num-gpus", f"{number}", f"train.output_dir={output}"]) == 0
        log = (output / "log.txt").read_text()
        assert f"Process 0 of {number} on cpu" in log
        lines.append([line.split("copypaste: ")[1] for line in log.splitlines() if "copypaste: " in line])
    assert lines[0] == lines[1]
    assert len(lines[0]) == 3
    assert "Command line: detrex evaluate --config-file" in log


@pytest.mark.parametrize(("batch", "choice"), [(5, "4 or 6"), (1, "2")])
def test_a_batch_that_cannot_be_shared_is_an_error(monkeypatch, batch, choice):
    monkeypatch.setattr(comm, "get_world_size", lambda: 2)
    cfg = OmegaConf.create({"dataloader": {"train": {"total_batch_size": batch}}})
    with pytest.raises(ConfigError, match=f"total_batch_size={batch} cannot be shared by 2 processes; use {choice}"):
        check_batch_size(cfg)


def test_a_loss_that_is_not_finite_ends_the_job(tmp_path):
    process = torchrun(write_config(tmp_path), "model.nan_from=2")
    assert process.returncode != 0
    assert "loss is not finite at iteration 2" in process.stderr
    assert not (tmp_path / "output" / "model_final.pth").exists()


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ({"RANK": "0", "WORLD_SIZE": "2"}, "WORLD_SIZE=2 says that this is one process of several, but LOCAL_RANK, "),
        ({"WORLD_SIZE": "2"}, "but RANK, LOCAL_RANK, LOCAL_WORLD_SIZE, MASTER_ADDR, MASTER_PORT are not set. Start"),
        (PLACE | {"LOCAL_WORLD_SIZE": None}, "did not set ['LOCAL_WORLD_SIZE']"),
        (PLACE | {"RANK": "2"}, "MASTER_PORT=1: the launcher must set numbers, and RANK below WORLD_SIZE"),
        (PLACE | {"WORLD_SIZE": "two"}, "WORLD_SIZE=two"),
    ],
)
def test_one_process_of_several_does_not_train_alone(tmp_path, place, message):
    """What a launcher left behind, or a cluster sets for each machine."""
    environment = {key: value for key, value in os.environ.items() if key not in PLACE}
    environment |= {key: value for key, value in place.items() if value is not None}
    environment["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, str(ROOT / "tools/train_net.py"), "--config-file", str(write_config(tmp_path))]
    process = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert process.returncode == 2, process.stderr
    assert process.stderr.splitlines()[-1].startswith("error: ")
    assert message in process.stderr
    assert not (tmp_path / "output").exists()


@pytest.mark.parametrize(
    ("place", "message"),
    [
        (["--machine-rank", "2"], "--machine-rank 2 is not one of --num-machines 2"),
        (["--machine-rank", "0"], "--dist-url auto: give tcp://host:port, a port of machine 0"),
        (["--dist-url", "file:///store"], "--dist-url file:///store: give tcp://host:port, a port of machine 0"),
    ],
)
def test_a_place_that_does_not_fit_is_an_error(tmp_path, capsys, place, message):
    assert run(["--config-file", str(write_config(tmp_path)), "--num-gpus", "1", "--num-machines", "2", *place]) == 2
    assert f"error: {message}" in capsys.readouterr().err
