"""Switches for training on small data, through the command line's entry point."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from stub_detector import write_config

from detrex.cli.train import EXIT_CONFIG, build_parser
from detrex.cli.train import main as run
from detrex.engine.train import main

EMA = ("train.ema.enabled=true", "train.ema.decay=0.6")


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return write_config(tmp_path)


def train(config: Path, *options: str) -> dict:
    return main(build_parser().parse_args(["--config-file", str(config), *options]))


def records(output: Path) -> list[dict]:
    """Rows of ``metrics.json``, without times and memory."""
    rows = [json.loads(line) for line in (output / "metrics.json").read_text().splitlines()]
    return [{k: v for k, v in row.items() if not k.endswith(("time", "eta_seconds", "max_rss_mb"))} for row in rows]


def content(path: Path) -> dict:
    return torch.load(path, weights_only=True)


# ------------------------------------------------------------------------------------------------------ accumulation
def test_a_batch_in_parts_is_the_same_run(config, tmp_path):
    train(config, "train.log_period=1")
    train(config, "train.log_period=1", "train.accumulate=2", f"train.output_dir={tmp_path}/parts")
    whole, parts = records(tmp_path / "output"), records(tmp_path / "parts")
    assert [r["iteration"] for r in parts] == [r["iteration"] for r in whole]
    for one, other in zip(whole, parts, strict=True):
        for key in ("total_loss", "grad_norm", "lr", "bbox/AP"):
            assert (key in one) == (key in other)
            assert other.get(key, 0) == pytest.approx(one.get(key, 0), rel=1e-4)


def test_more_parts_than_images_are_refused(config, capsys):
    assert run(["--config-file", str(config), "train.accumulate=5"]) == EXIT_CONFIG
    assert "train.accumulate=5, but a process has 4 images of each batch" in capsys.readouterr().err


# ---------------------------------------------------------------------------------------------------------------- EMA
def test_the_average_is_that_of_the_weights_after_every_update(config, tmp_path):
    train(config, *EMA, "train.checkpointer={period: 1, max_to_keep: null, best: bbox/AP}", "train.eval_period=0")
    output = tmp_path / "output"
    saved = sorted(output.glob("model_0*.pth"))
    files = [*saved, output / "model_final.pth"]
    assert len(files) == 12
    expected = content(files[0])["model"]
    for updates, path in enumerate(files[1:], 1):
        keep = min(0.6, (1 + updates) / (10 + updates))
        expected = {k: keep * expected[k] + (1 - keep) * v for k, v in content(path)["model"].items()}
    averaged, raw = content(output / "model_final_ema.pth"), content(output / "model_final.pth")
    assert (averaged["weights"], raw["weights"]) == ("ema", "raw")
    for name, value in averaged["model"].items():
        torch.testing.assert_close(value, expected[name])
    assert not torch.equal(averaged["model"]["head.weight"], raw["model"]["head.weight"])


def test_what_is_evaluated_is_the_average_and_both_files_evaluate_alone(config, tmp_path):
    trained = train(config, *EMA)
    output = tmp_path / "output"
    assert not (output / "model_best.pth").exists()
    best = content(output / "model_best_ema.pth")
    assert best["weights"] == "ema"
    assert best["metrics"]["bbox/AP"] == max(r["bbox/AP"] for r in records(output) if "bbox/AP" in r)
    results = {}
    for name in ("model_final_ema", "model_final"):
        only = ["--eval-only", f"train.init_checkpoint={output}/{name}.pth", f"train.output_dir={tmp_path}/{name}"]
        results[name] = train(config, *only)
        kind = "EMA" if name.endswith("ema") else "raw"
        assert f"{name}.pth ({kind} weights): " in (tmp_path / name / "log.txt").read_text()
    assert json.dumps(results["model_final_ema"]) == json.dumps(trained)
    assert json.dumps(results["model_final"]) != json.dumps(trained)


def test_the_average_resumes(config, tmp_path):
    options = (*EMA, "train.eval_period=0", "train.checkpointer.period=3")
    train(config, *options)
    output = tmp_path / "output"
    whole = content(output / "model_final_ema.pth")
    (output / "last_checkpoint").write_text("model_0000005.pth")
    (output / "model_final_ema.pth").unlink()
    train(config, "--resume", *options)
    again = content(output / "model_final_ema.pth")
    assert all(torch.equal(again["model"][name], value) for name, value in whole["model"].items())


def test_without_an_average_files_say_raw(config, tmp_path):
    train(config)
    files = {path.name: content(path)["weights"] for path in (tmp_path / "output").glob("model_[bf]*.pth")}
    assert files == {"model_best.pth": "raw", "model_final.pth": "raw"}


# ----------------------------------------------------------------------------------------------------- early stopping
def test_a_run_whose_metric_no_longer_rises_stops_and_stays_stopped(config, tmp_path):
    """Without a learning rate, no evaluation is better than the first, after iteration 2."""
    output = tmp_path / "output"
    options = ("optimizer.lr=0", "train.eval_period=3", "train.max_iter=100", *EMA)
    train(config, *options, "train.early_stopping.patience=2")
    assert [r["iteration"] for r in records(output) if "bbox/AP" in r] == [2, 5, 8]
    for name in ("model_final.pth", "model_final_ema.pth"):
        assert content(output / name)["iteration"] == 8
    assert (output / "last_checkpoint").read_text() == "model_final.pth"
    log = (output / "log.txt").read_text()
    assert "Stopped early after iteration 8: 2 evaluations in a row have not raised bbox/AP above" in log
    assert "Exception" not in log

    before, written = records(output), (output / "model_final.pth").stat().st_mtime_ns
    train(config, "--resume", *options, "train.early_stopping.patience=2")
    assert records(output) == before
    assert (output / "model_final.pth").stat().st_mtime_ns == written

    train(config, "--resume", *options, "train.early_stopping.patience=4")  # more patience
    assert [r["iteration"] for r in records(output) if "bbox/AP" in r] == [2, 5, 8, 11, 14]
    assert content(output / "model_final.pth")["iteration"] == 14


def test_a_rising_metric_resets_the_count(config, tmp_path, monkeypatch):
    values = iter([0.1, 0.1, 0.3, 0.31, 0.2, 0.9])
    monkeypatch.setattr("detrex.engine.train.evaluate", lambda *_, **__: {"bbox": {"AP": next(values)}})
    stop = ("train.early_stopping.patience=2", "train.early_stopping.min_delta=0.05")
    train(config, "train.eval_period=1", "train.log_period=1", "train.max_iter=100", *stop)
    assert [r["bbox/AP"] for r in records(tmp_path / "output") if "bbox/AP" in r] == [0.1, 0.1, 0.3, 0.31, 0.2]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["train.early_stopping.patience=2", "train.checkpointer.best=''"],
            "needs a metric in train.checkpointer.best",
        ),
        (["train.ema.enabled=true", "train.ema.decay=1"], "train.ema.decay=1 must be at least 0 and below 1"),
        (["train.ema.deacy=0.9"], "did you mean train.ema.decay?"),
        (["train.early_stopping.patince=3"], "did you mean train.early_stopping.patience?"),
    ],
)
def test_wrong_values_are_one_line_and_status_2(config, capsys, options, message):
    assert run(["--config-file", str(config), *options]) == EXIT_CONFIG
    assert message in capsys.readouterr().err
