"""One training, its continuation and its evaluation on both hosts: the same numbers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from detrex.data.datasets.shapes import ShapesParameters, make_demo_data

ROOT = Path(__file__).parents[2]
OTHER = "DETECTRON2_OTHER_PYTHON"
STEPS = 20


def _train(python: str, data: Path, output: Path, *options: str) -> dict[int, dict[str, float]]:
    """The lines of metrics.json by iteration, without what depends on the machine's speed."""
    settings = {
        "dataloader.data.root": data,
        "train.output_dir": output,
        "train.max_iter": STEPS,
        "train.warmup": 5,
        "train.log_period": 1,
        "train.eval_period": STEPS,
        "train.checkpointer.period": STEPS // 2,
    }
    command = [python, "tools/train_net.py", "--config-file", "projects/deformable_detr/configs/demo_shapes.py"]
    overrides = [f"{key}={value}" for key, value in settings.items()]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "DETREX_OPS": "reference"}
    process = subprocess.run(
        [*command, *options, *overrides], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert process.returncode == 0, process.stdout[-3000:] + process.stderr[-3000:]
    lines = [json.loads(line) for line in (output / "metrics.json").read_text().splitlines()]
    kept = ("loss", "AP", "AR", "lr", "grad_norm")
    return {line["iteration"]: {k: v for k, v in line.items() if any(part in k for part in kept)} for line in lines}


@pytest.mark.timeout(900)
def test_losses_after_a_resume_and_ap_are_the_same(tmp_path: Path) -> None:
    other = os.environ.get(OTHER)
    if not other:
        pytest.skip(f"{OTHER} names no Python with the other host")
    make_demo_data(tmp_path / "data", ShapesParameters(num_train=64, num_val=8))
    runs = {}
    for name, python in (("this", sys.executable), ("other", other)):
        runs[name] = _train(python, tmp_path / "data", tmp_path / name)
        # As if it had died after the first half.
        (tmp_path / name / "last_checkpoint").write_text(f"model_{STEPS // 2 - 1:07d}.pth")
        resumed = _train(python, tmp_path / "data", tmp_path / name, "--resume")
        assert set(resumed) == set(runs[name])
    hosts = [(tmp_path / name / "log.txt").read_text().split("Host: detectron2 ")[1].split()[0] for name in runs]
    assert hosts[0] != hosts[1], f"{OTHER} has the same host as this Python: {hosts[0]}"

    this, other_run = runs["this"], runs["other"]
    assert set(this) == set(other_run) == set(range(STEPS + 1))
    for iteration in range(STEPS):
        assert set(this[iteration]) == set(other_run[iteration])
        assert this[iteration] == pytest.approx(other_run[iteration], rel=0, abs=1e-6)
    assert this[STEPS] == other_run[STEPS]
    assert any("AP" in key for key in this[STEPS])
