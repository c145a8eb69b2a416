"""Whole runs through the command line's entry point, in this process."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from detectron2.config import LazyConfig, instantiate
from stub_detector import write_config

from detrex.cli.train import EXIT_CONFIG, EXIT_NOT_FINITE, build_parser
from detrex.cli.train import main as run
from detrex.engine.train import main
from detrex.inference.optimizations import ONEDNN_CHOICES


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return write_config(tmp_path)


def train(config: Path, *options: str) -> dict:
    return main(build_parser().parse_args(["--config-file", str(config), *options]))


def records(output: Path) -> list[dict]:
    return [json.loads(line) for line in (output / "metrics.json").read_text().splitlines()]


def content(path: Path) -> dict:
    return torch.load(path, weights_only=True)


def weights(path: Path) -> dict[str, torch.Tensor]:
    return content(path)["model"]


def test_a_run_leaves_what_users_expect(config, tmp_path):
    results = train(config)
    output = tmp_path / "output"
    names = {p.name for p in output.iterdir()}
    assert {"log.txt", "config.yaml", "metrics.json", "model_final.pth", "last_checkpoint"} <= names
    assert any(name.startswith("events.out.tfevents") for name in names)
    assert (output / "last_checkpoint").read_text() == "model_final.pth"
    assert results["bbox"]["AP50"] > 5

    log = (output / "log.txt").read_text()
    assert "12 images / batch 4 = 3 iterations per epoch; 12 iterations (4 ep) in all" in log
    assert "0.01 from iteration 0, 0.001 at iteration 10 (3.333 ep)" in log
    for text in ("Host: detectron2", "Operator backend: ", "Process 0 of 1 on cpu", "eta: ", "copypaste: Task: bbox"):
        assert text in log, text
    assert log.count("Schedule: ") == 1  # no handler doubles the lines

    rows = records(output)
    step = next(row for row in rows if row["iteration"] == 1)
    for key in ("total_loss", "loss_bbox", "loss_class", "lr", "grad_norm", "data_time", "forward_time"):
        assert key in step, key
    # Rows are medians over the iterations so far, so the sum holds only where there is one: the smoothing of two is
    # their mean.
    assert step["total_loss"] == pytest.approx(step["loss_bbox"] + step["loss_class"], rel=1e-6)
    assert [row["iteration"] for row in rows if "bbox/AP" in row] == [5, 11]
    assert rows[-1]["bbox/AP"] == results["bbox"]["AP"]
    metadata = torch.load(output / "model_final.pth", weights_only=True)["metadata"]
    assert (metadata["class_names"], metadata["category_ids"]) == (["red", "green"], [1, 2])
    assert metadata["config"]["model"]["num_classes"] == 2


def test_a_run_ends_with_its_report(config, tmp_path):
    train(config, "train.report=true", "train.max_iter=2", "train.eval_period=0")
    page = (tmp_path / "output" / "report.html").read_text()
    assert "Training curves" in page
    assert re.search(r"Report: .*report\.html, in \d+\.\d s", (tmp_path / "output" / "log.txt").read_text())


def test_a_report_that_fails_does_not_fail_the_run(config, tmp_path):
    (tmp_path / "output" / "report.html").mkdir(parents=True)  # where the file should go
    status = run(["--config-file", str(config), "train.report=true", "train.max_iter=2", "train.eval_period=0"])
    assert status == 0
    assert (tmp_path / "output" / "model_final.pth").is_file()
    log = (tmp_path / "output" / "log.txt").read_text()
    assert "The report cannot be written, the run is complete; to try again: detrex report" in log


def test_eval_only_repeats_the_last_ap_to_all_digits(config, tmp_path):
    trained = train(config)
    weights_file = tmp_path / "output" / "model_final.pth"
    again = train(config, "--eval-only", f"train.init_checkpoint={weights_file}", f"train.output_dir={tmp_path}/eval")
    assert json.dumps(again) == json.dumps(trained)  # as text, because an undefined AP is NaN
    assert not (tmp_path / "eval" / "config.yaml").exists()


@pytest.mark.parametrize(
    ("training", "evaluation", "pulled"),
    [("none", "[channels_last]", ["channels_last"]), ("[channels_last]", "none", ["channels_last"])],
)
def test_optimizations_are_switches_of_the_config(config, tmp_path, training, evaluation, pulled):
    optimizations = [f"train.optimizations.training={training}", f"train.optimizations.evaluation={evaluation}"]
    train(config, *optimizations, "train.eval_period=0")
    log = (tmp_path / "output" / "log.txt").read_text()
    assert re.findall(r"optimization: (\w+):", log) == pulled


def test_a_resumed_run_with_the_same_layers_gives_no_warning(config, tmp_path, monkeypatch):
    """Though the machine that resumes it would choose other ones."""
    for choice, options in ((True, ["train.max_iter=2"]), (False, ["--resume", "train.max_iter=4"])):
        monkeypatch.setitem(ONEDNN_CHOICES, "auto", lambda choice=choice: choice)
        train(config, *options, "train.checkpointer.period=1")
    log = (tmp_path / "output" / "log.txt").read_text()
    assert "Starting training from iteration 2" in log
    assert "Other layers compute" not in log
    assert content(tmp_path / "output" / "model_final.pth")["optimizations"] == {"onednn_linear": True}


def test_a_frozen_part_keeps_its_weights_and_statistics(config, tmp_path):
    options = ("train.freeze=[backbone,norm]", "model.batch_norm=true", "train.eval_period=0", "train.seed=3")
    for name, steps in (("short", 1), ("long", 5)):
        train(config, *options, f"train.max_iter={steps}", f"train.output_dir={tmp_path}/{name}")
    short, long = weights(tmp_path / "short/model_final.pth"), weights(tmp_path / "long/model_final.pth")
    changed = {name for name, value in long.items() if not torch.equal(value, short[name])}
    assert changed == {"head.weight", "head.bias"}
    assert "train.freeze: backbone, 0.00 M parameters" in (tmp_path / "long" / "log.txt").read_text()


def test_saved_config_loads_and_trains_the_same(config, tmp_path):
    train(config)
    saved = tmp_path / "output" / "config.yaml"
    cfg = LazyConfig.load(str(saved))
    assert cfg.train.max_iter == "4ep"  # durations stay as written
    assert cfg.model.num_classes == 2  # read from the data
    assert instantiate(cfg.model).num_classes == 2
    assert not saved.with_suffix(".yaml.pkl").exists()
    train(saved, f"train.output_dir={tmp_path}/again")
    first, second = weights(tmp_path / "output/model_final.pth"), weights(tmp_path / "again/model_final.pth")
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_seed_repeats_a_run_bit_by_bit(config, tmp_path):
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        train(config, f"train.output_dir={tmp_path}/{name}", f"train.seed={seed}")
    losses = [[r["total_loss"] for r in records(tmp_path / n) if "total_loss" in r] for n in "abc"]
    a, b, c = (weights(tmp_path / n / "model_final.pth") for n in "abc")
    assert losses[0] == losses[1] != losses[2]
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert not all(torch.equal(a[name], c[name]) for name in a)


def test_resume_continues_iteration_lr_and_metrics(config, tmp_path):
    output = tmp_path / "output"
    train(config, "train.checkpointer.period=3", "train.eval_period=0")
    whole = records(output)
    # Pretend that the run died after iteration 8: its checkpoint is the last, but metrics went on to the end.
    (output / "last_checkpoint").write_text("model_0000008.pth")
    train(config, "--resume", "train.checkpointer.period=3", "train.eval_period=0")
    resumed = records(output)
    assert "Starting training from iteration 9" in (output / "log.txt").read_text()
    assert [r["iteration"] for r in resumed] == sorted({r["iteration"] for r in resumed})
    assert [r for r in resumed if r["iteration"] < 9] == [r for r in whole if r["iteration"] < 9]
    lr_whole, lr_resumed = ({r["iteration"]: r["lr"] for r in rows if "lr" in r} for rows in (whole, resumed))
    assert lr_resumed == lr_whole
    assert lr_resumed[11] == pytest.approx(0.001)
    state = torch.load(output / "model_final.pth", weights_only=True)
    assert state["iteration"] == 11
    assert {int(s["step"]) for s in state["trainer"]["optimizer"]["state"].values()} == {12}


def test_resume_without_a_checkpoint_starts_afresh(config, tmp_path):
    train(config, "--resume", "train.max_iter=2", "train.eval_period=0")
    log = (tmp_path / "output" / "log.txt").read_text()
    assert "no checkpoint yet" in log
    assert "Starting training from iteration 0" in log


def test_finetuning_on_100_images_sees_the_drop(tmp_path):
    config = write_config(tmp_path, num_images=100)
    train(config, "train.max_iter=1ep", "train.eval_period=0", "train.log_period=1")
    rates = {r["iteration"]: r["lr"] for r in records(tmp_path / "output") if "lr" in r}
    assert len(rates) == 25
    assert {it for it, lr in rates.items() if lr < 0.005} == {20, 21, 22, 23, 24}  # 40/50 of 25


def test_rehearsal_is_short_and_evaluates(config, tmp_path):
    train(
        config, "train.fast_dev_run.enabled=true", "train.fast_dev_run.max_iter=3", "train.fast_dev_run.eval_batches=2"
    )
    rows = records(tmp_path / "output")
    assert [r["iteration"] for r in rows] == [0, 1, 2]
    assert "bbox/AP" in rows[-1]
    assert "Start inference on 2 batches" in (tmp_path / "output" / "log.txt").read_text()


def test_a_loss_that_is_not_finite_stops_the_run(config, tmp_path, capsys):
    status = run(["--config-file", str(config), "model.nan_from=5", "train.checkpointer.period=1"])
    message = capsys.readouterr().err
    assert status == EXIT_NOT_FINITE
    assert "not finite at iteration 5: total_loss, loss_class" in message
    assert "loss_bbox=" in message
    assert len(re.findall(r"\d+\.png", message.split("images: ")[1])) == 4
    assert not (tmp_path / "output" / "model_final.pth").exists()
    last = weights(tmp_path / "output" / (tmp_path / "output" / "last_checkpoint").read_text())
    assert all(torch.isfinite(value).all() for value in last.values())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["optimizer.lrr=1"], "did you mean optimizer.lr?"),
        (
            ["train.max_iter=12epp"],
            'train.max_iter=12epp: expected a duration: iterations (5000) or epochs ("12ep"',
        ),
        (["train.device=cuda:99"], "train.device='cuda:99'"),
        (["train.amp.enabled=true", "train.amp.dtype=half"], "train.amp.dtype='half' must be one of bfloat16, float16"),
        (["train.device=tpuu"], "train.device='tpuu'"),
        (["train.optimizations.evaluation=[fold]"], "train.optimizations.evaluation: unknown optimizations ['fold']"),
        (
            ["train.optimizations.training=[fold_norms]"],
            "train.optimizations.training: unknown optimizations ['fold_norms']",
        ),
        (["--eval-only"], "--eval-only needs weights"),
        (["train.optimizations.onednn_linear=fast"], "onednn_linear='fast' must be one of auto, always, measure"),
        (["train.checkpointer.best=AP50"], "best='AP50' is not a metric of the evaluation; did you mean bbox/AP50?"),
        (["train.checkpointer.best=bbox/AP-gren"], "did you mean bbox/AP-green?"),
        (["train.freeze=[bakbone]"], "train.freeze: 'bakbone' matches no parameter; their names begin with backbone"),
        (["train.init_checkpoint=nowhere/model.pth"], "checkpoint nowhere/model.pth not found: nowhere does not exist"),
        (["optimizer.params.lr_factor_func.factors={bakbone: 0.1}"], "'bakbone' matches no parameter"),
        (["dataloader.data.train_json=missing.json"], "missing.json"),
        (["--num-gpus", "1000"], "--num-gpus 1000 on the CPU, but this machine has"),
        (["--num-gpus", "1000", "train.device=auto"], "--num-gpus 1000, but PyTorch sees"),
    ],
)
def test_wrong_input_is_one_line_and_status_2(config, capsys, options, message):
    flags = [o for o in options if o.startswith("--")] + [o for o in options if o.isdigit()]
    opts = [o for o in options if o not in flags]
    assert run(["--config-file", str(config), *flags, *opts]) == EXIT_CONFIG
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error


def test_config_file_is_required_and_found(capsys):
    assert run([]) == EXIT_CONFIG
    assert "--config-file" in capsys.readouterr().err
    assert run(["--config-file", "common/trian.py"]) == EXIT_CONFIG
    assert "Did you mean" in capsys.readouterr().err


def test_what_the_file_leaves_out_of_train_has_its_default(config, tmp_path):
    """A config.yaml saved before a key existed still runs, and the key can be overridden."""
    short = tmp_path / "short.py"
    short.write_text(
        "from .config import dataloader, lr_multiplier, model, optimizer\n"
        f"train = dict(output_dir='{tmp_path}/short', max_iter=2, device='cpu')\n"
    )
    train(short, "train.log_period=1")
    assert [r["iteration"] for r in records(tmp_path / "short")] == [0, 1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("from .config import model, train\n", "does not define dataloader, optimizer, lr_multiplier"),
        ("from .config import *\nmodel.num_classes = '???'\n", "these values must be given"),
        ("from .config import *\nmodel.num_classes = '${nowhere.x}'\n", "nowhere.x"),
        (
            "from .config import *\nlr_multiplier.scheduler.milestones = [60]\n",
            "lr_multiplier: Milestone must be smaller",
        ),
    ],
)
def test_configs_that_cannot_run(config, tmp_path, capsys, text, message):
    names = "dataloader, lr_multiplier, model, optimizer, train"  # config files cannot import a star
    (tmp_path / "bad.py").write_text(text.replace("*", names))
    assert run(["--config-file", str(tmp_path / "bad.py")]) == EXIT_CONFIG
    assert message in capsys.readouterr().err


def test_a_changed_learning_rate_is_refused_aloud_on_resume(config, tmp_path):
    train(config, "train.max_iter=2", "train.eval_period=0")
    train(config, "--resume", "train.max_iter=4", "train.eval_period=0", "optimizer.lr=0.5", "train.log_period=1")
    log = (tmp_path / "output" / "log.txt").read_text()
    assert "learning rates [0.05, 0.5, 0.5] are ignored: a resumed run keeps its own, [0.001, 0.01, 0.01]" in log
    assert records(tmp_path / "output")[2]["lr"] == pytest.approx(0.01)
