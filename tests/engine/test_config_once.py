"""A config file is executed once in a process: it may register data sets, as detectron2's tutorial does."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from detrex.data.datasets.shapes import ShapesParameters, make_demo_data

ROOT = Path(__file__).parents[2]
CONFIG = """
import os

from detectron2.data.datasets import register_coco_instances

from detrex.config import get_config

with open({folder!r} + "/executed.txt", "a") as f:
    f.write(f"{{os.getpid()}}\\n")
for part in ("train", "val"):
    files = f"{folder}/shapes/annotations/{{part}}.json", f"{folder}/shapes/{{part}}"
    register_coco_instances(f"mine_{{part}}", {{}}, *files)

base = get_config("projects/deformable_detr/configs/demo_shapes.py")
dataloader, lr_multiplier, model = base.dataloader, base.lr_multiplier, base.model
optimizer, train = base.optimizer, base.train
del base, dataloader.data
dataloader.train.dataset.names, dataloader.test.dataset.names = "mine_train", "mine_val"
dataloader.train.total_batch_size = 2
train.output_dir = {folder!r} + "/output"
train.device = "cpu"
train.warmup = 0
train.eval_period = train.checkpointer.period = 1
"""
RUNS = {
    "train": (["train.max_iter=1"], 1),
    "resume": (["--resume", "train.max_iter=2"], 1),
    "evaluate": (["--eval-only", "train.init_checkpoint={folder}/output/model_final.pth"], 1),
    "several processes": (["--num-gpus", "2", "train.max_iter=1", "train.output_dir={folder}/two"], 3),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("once")
    make_demo_data(folder / "shapes", ShapesParameters(num_train=4, num_val=2, image_size=64))
    (folder / "mine.py").write_text(CONFIG.format(folder=str(folder)))
    return folder


@pytest.mark.parametrize("run", RUNS)  # in this order
def test_a_config_that_registers_its_data_works(run, folder):
    (folder / "executed.txt").unlink(missing_ok=True)
    arguments, processes = RUNS[run]
    arguments = [argument.format(folder=folder) for argument in arguments]
    command = [sys.executable, str(ROOT / "tools/train_net.py"), "--config-file", str(folder / "mine.py"), *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    executions = Counter((folder / "executed.txt").read_text().split())
    assert set(executions.values()) == {1}, "executed more than once in a process"
    assert len(executions) == processes
    if run == "resume":
        iterations = [json.loads(line)["iteration"] for line in (folder / "output/metrics.json").open()]
        assert max(iterations) >= 1
