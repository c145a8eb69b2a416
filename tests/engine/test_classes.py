"""Runs whose data list the classes otherwise than the checkpoint does."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from stub_detector import write_config

from detrex.cli.train import EXIT_CONFIG, build_parser
from detrex.cli.train import main as run
from detrex.engine.train import main


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A folder with a config, its data and a run of six iterations."""
    folder = tmp_path_factory.mktemp("trained")
    write_config(folder)
    train(folder / "config.py", "train.max_iter=6", "train.eval_period=0")
    return folder


def train(config: Path, *options: str) -> dict:
    return main(build_parser().parse_args(["--config-file", str(config), *options]))


def renamed(folder: Path, names: dict[int, str], *, swap: bool = False) -> Path:
    """The data set with other names by id; with ``swap`` the ids of both classes are exchanged."""
    content = json.loads((folder / "data" / "data.json").read_text())
    other = {1: 2, 2: 1} if swap else {1: 1, 2: 2}
    for item in content["annotations"]:
        item["category_id"] = other[item["category_id"]]
    content["categories"] = [{"id": i, "name": name} for i, name in sorted(names.items())]
    path = folder / "data" / f"{'_'.join(names.values())}{swap}.json"
    path.write_text(json.dumps(content))
    return path


def data(path: Path, *splits: str) -> list[str]:
    return [f"dataloader.data.{split}_json={path}" for split in splits]


def test_an_evaluation_on_the_same_classes_in_another_order_gives_the_same_ap(trained, tmp_path):
    weights = [f"train.init_checkpoint={trained}/output/model_final.pth", f"train.output_dir={tmp_path}"]
    expected = train(trained / "config.py", "--eval-only", *weights)["bbox"]
    assert expected["AP-red"] != expected["AP-green"]
    swapped = data(renamed(trained, {1: "green", 2: "red"}, swap=True), "val")
    result = train(trained / "config.py", "--eval-only", *weights, *swapped)["bbox"]
    assert result == pytest.approx(expected, rel=0, abs=0, nan_ok=True)
    assert "has the classes of" in (tmp_path / "log.txt").read_text()


def test_an_evaluation_on_other_classes_is_an_error(trained, tmp_path, capsys):
    options = [f"train.init_checkpoint={trained}/output/model_final.pth", f"train.output_dir={tmp_path}"]
    options += data(renamed(trained, {1: "red", 2: "blue"}), "val")
    assert run(["--config-file", str(trained / "config.py"), "--eval-only", *options]) == EXIT_CONFIG
    error = capsys.readouterr().err
    assert "only in the checkpoint: green; only in the data: blue" in error
    assert "Traceback" not in error


def test_resuming_with_the_classes_in_another_order_continues_the_same_run(trained, tmp_path, capsys):
    swapped = data(renamed(trained, {1: "green", 2: "red"}, swap=True), "train", "val")
    common = ["train.max_iter=12", "train.eval_period=0", "train.checkpointer.period=6"]
    results = []
    for name, options in (("same", []), ("swapped", swapped)):
        output = f"train.output_dir={tmp_path / name}"
        train(trained / "config.py", output, "train.max_iter=12", "train.eval_period=0", "train.checkpointer.period=6")
        (tmp_path / name / "model_final.pth").unlink()
        (tmp_path / name / "last_checkpoint").write_text("model_0000005.pth")
        results.append(train(trained / "config.py", "--resume", output, *common, *options)["bbox"])
    assert results[0] == pytest.approx(results[1], rel=0, abs=0, nan_ok=True)
    files = [torch.load(tmp_path / name / "model_final.pth", weights_only=True) for name in ("same", "swapped")]
    assert files[1]["metadata"]["class_names"] == ["red", "green"]
    assert files[1]["metadata"]["category_ids"] == [2, 1]
    for name, value in files[0]["model"].items():
        assert torch.equal(value, files[1]["model"][name]), name
    other = data(renamed(trained, {1: "red", 2: "blue"}), "train", "val")
    arguments = ["--config-file", str(trained / "config.py"), "--resume", f"train.output_dir={tmp_path / 'same'}"]
    assert run([*arguments, *common, *other]) == EXIT_CONFIG
    assert "only in the data: blue" in capsys.readouterr().err
