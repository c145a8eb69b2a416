"""Running statistics of BatchNorm in two processes: what is evaluated is what is saved."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from processes import run_job
from stub_detector import write_config

from detrex.cli.train import build_parser
from detrex.engine import main

OPTIONS = ("train.max_iter=3", "train.eval_period=2", "model.batch_norm=true", "optimizer.lr=0.05")


def train(rank: int, world: int, config: Path, *options: str) -> None:
    results = main(build_parser().parse_args(["--config-file", str(config), *options]))
    if rank == 0:
        (config.parent / "results.json").write_text(json.dumps(results))


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("train.ema.enabled=true",),
        ("train.fsdp.enabled=true", "train.fsdp.units=[Linear]", "train.optimizations.training=none"),
    ],
    ids=["ddp", "ema", "fsdp"],
)
def test_the_logged_ap_is_that_of_the_saved_file_at_any_number_of_processes(tmp_path, options):
    config = write_config(tmp_path, num_images=16)
    run_job(train, 2, config, *OPTIONS, *options, folder=tmp_path)
    output = tmp_path / "output"
    rows = [json.loads(line) for line in (output / "metrics.json").read_text().splitlines()]
    suffix = "_ema" if "train.ema.enabled=true" in options else ""
    logged = [row["bbox/AP"] for row in rows if "bbox/AP" in row]
    assert len(logged) == 2
    only = ("--eval-only", "model.batch_norm=true", f"train.output_dir={tmp_path}/eval")
    for name, expected in ((f"model_final{suffix}", logged[-1]), (f"model_best{suffix}", max(logged))):
        path = f"train.init_checkpoint={output}/{name}.pth"
        train(0, 1, config, *only, path)
        assert json.loads((tmp_path / "results.json").read_text())["bbox"]["AP"] == expected
        run_job(train, 2, config, *only, path, folder=tmp_path)
        assert json.loads((tmp_path / "results.json").read_text())["bbox"]["AP"] == expected
