from __future__ import annotations

import shlex

import pytest
from coco_files import ROOT

from detrex.cli import demo as shapes_demo
from detrex.cli.demo import print_report, run_demo
from detrex.cli.train import build_parser, override
from detrex.data.datasets.shapes import ShapesParameters
from detrex.engine import main

QUICK = ["train.max_iter=3", "train.warmup=1", "train.log_period=1", "train.device=cpu"]
FEW = ShapesParameters(num_train=16, num_val=4, image_size=64)


@pytest.fixture(autouse=True)
def _repository_root(monkeypatch):
    monkeypatch.chdir(ROOT)  # the printed command is relative to it


def test_demo_is_done_once_and_its_command_reproduces_the_ap(tmp_path, capsys):
    output = tmp_path / "my demo"  # a blank, to be quoted for shell and override grammar
    first = run_demo(output, overrides=QUICK, parameters=FEW)
    assert not first.reused
    assert set(first.seconds) == {"data", "training and evaluation", "pictures"}
    assert {p.name for p in output.iterdir()} >= {"data", "run", "predictions.png", "training.png", "demo.json"}
    checkpoint = output / "run" / "model_final.pth"
    written = checkpoint.stat().st_mtime_ns

    (output / "training.png").unlink()
    second = run_demo(output, overrides=QUICK, parameters=FEW)
    assert second.reused
    assert (output / "training.png").is_file()
    assert checkpoint.stat().st_mtime_ns == written
    capsys.readouterr()
    print_report(first, output)
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1].endswith(str(output))
    assert lines[-2] == f"AP50: {first.results['AP50']:.1f}"
    assert first.eval_command in "\n".join(lines)

    command = shlex.split(first.eval_command)
    assert command[1:4] == ["-m", "detrex", "evaluate"]
    args = build_parser("evaluate").parse_args(command[4:])
    args.opts.append(override("train.init_checkpoint", args.weights))
    assert main(args)["bbox"] == pytest.approx(first.results, abs=0, nan_ok=True)


def test_unfinished_or_different_demos_are_trained(tmp_path, monkeypatch):
    run_demo(tmp_path, overrides=QUICK, parameters=FEW)

    def trains(seed=0, overrides=QUICK):
        class Started(Exception):
            pass

        def start(args):
            raise Started

        saved = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
        with monkeypatch.context() as patch:
            patch.setattr(shapes_demo, "train", start)
            try:
                run_demo(tmp_path, seed=seed, overrides=overrides, parameters=FEW)
            except Started:
                for path, content in saved.items():
                    path.parent.mkdir(exist_ok=True, parents=True)
                    path.write_bytes(content)
                return True
        return False

    assert not trains()
    assert trains(seed=1)
    assert trains(overrides=[*QUICK, "optimizer.lr=1e-3"])
    assert not trains()
    (tmp_path / "run" / "model_final.pth").unlink()
    assert trains()
