"""``train.output_dir`` of runs that come one after the other, or at once."""

from __future__ import annotations

import json
import multiprocessing
import os
import socket
import time
from pathlib import Path

import pytest
import torch
from stub_detector import write_config

from detrex.cli.train import EXIT_CONFIG, build_parser
from detrex.cli.train import main as run
from detrex.config import ConfigError
from detrex.engine import run_folder
from detrex.engine.run_folder import RunFolder
from detrex.engine.train import main

SHORT = ("train.max_iter=4", "train.checkpointer.period=2", "train.eval_period=2", "train.log_period=1")


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return write_config(tmp_path)


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "output"


def train(config: Path, *options: str) -> dict:
    return main(build_parser().parse_args(["--config-file", str(config), *options]))


def records(output: Path) -> list[dict]:
    return [json.loads(line) for line in (output / "metrics.json").read_text().splitlines()]


def content(path: Path) -> dict:
    return torch.load(path, weights_only=True)


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file() and "log.txt" not in path.name}


# ------------------------------------------------------------------------------------------------------ finished runs
def test_a_finished_run_that_is_continued_keeps_its_last_evaluation_and_best_weights(config, output, monkeypatch):
    """The last evaluation, which is not due by the period, is the best one."""
    values = iter([10.0, 50.0, 20.0, 30.0])
    monkeypatch.setattr("detrex.engine.train.evaluate", lambda *_, **__: {"bbox": {"AP": next(values)}})
    train(config, *SHORT, "train.max_iter=5", "train.eval_period=3")
    best, rows = content(output / "model_best.pth"), records(output)
    assert [(r["iteration"], r["bbox/AP"]) for r in rows if "bbox/AP" in r] == [(2, 10.0), (4, 50.0)]
    train(config, "--resume", *SHORT, "train.max_iter=9", "train.eval_period=3")
    assert records(output)[: len(rows)] == rows
    assert [r["bbox/AP"] for r in records(output) if "bbox/AP" in r] == [10.0, 50.0, 20.0, 30.0]
    assert [r["iteration"] for r in records(output)] == list(range(9))
    again = content(output / "model_best.pth")
    assert again["iteration"] == 4
    assert all(torch.equal(best["model"][name], value) for name, value in again["model"].items())


def test_a_complete_run_says_that_nothing_is_left_and_changes_nothing(config, output):
    train(config, *SHORT)
    before = files(output)
    assert train(config, "--resume", *SHORT) == {}
    assert (
        "all 4 iterations are trained and evaluated. To train on, raise train.max_iter"
        in (output / "log.txt").read_text()
    )
    assert files(output) == before


def test_a_run_longer_than_max_iter_is_refused_and_unchanged(config, output, capsys):
    train(config, *SHORT)
    before = files(output)
    assert run(["--config-file", str(config), "--resume", *SHORT, "train.max_iter=1"]) == EXIT_CONFIG
    assert "train.max_iter=1 iterations, but the run to resume has 4 already" in capsys.readouterr().err
    assert files(output) == before


def test_a_refused_resume_leaves_config_yaml(config, output, capsys):
    train(config, *SHORT)
    before = files(output)
    assert run(["--config-file", str(config), "--resume", *SHORT, "train.freeze=[head]"]) == EXIT_CONFIG
    assert "trained other parameters" in capsys.readouterr().err
    assert files(output) == before


# ------------------------------------------------------------------------------------------- runs in the same folder
def test_a_new_run_moves_the_files_of_an_earlier_one_aside(config, output):
    train(config, *SHORT)
    before, log = files(output), (output / "log.txt").read_text()
    train(config, *SHORT, "train.seed=8")
    (aside,) = output.glob("earlier_run_*")
    assert {path.name: path.read_bytes() for path in aside.iterdir()} == before | {"log.txt": log.encode()}
    assert (
        f"5 files moved to {aside}" in (output / "log.txt").read_text()
        or str(aside) in (output / "log.txt").read_text()
    )
    assert (output / "log.txt").read_text().count("Command line: ") == 1  # each log is of one run
    assert len(list(output.glob("events.out.tfevents.*"))) == 1
    assert content(output / "model_final.pth")["run_id"] != content(aside / "model_final.pth")["run_id"]


def test_a_new_run_killed_before_its_first_checkpoint_does_not_resume_the_earlier_one(config, output, monkeypatch):
    train(config, *SHORT)
    monkeypatch.setattr("detrex.engine.trainer.Trainer.run_step", lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        train(config, *SHORT)
    monkeypatch.undo()
    train(config, "--resume", *SHORT)
    assert "Starting training from iteration 0" in (output / "log.txt").read_text().rpartition("Command line: ")[2]
    assert [r["iteration"] for r in records(output)] == [0, 1, 2, 3]


def test_a_checkpoint_of_another_run_is_not_resumed_from(config, output, tmp_path):
    """As when files of two runs are copied together."""
    train(config, *SHORT)
    train(config, *SHORT, f"train.output_dir={tmp_path}/other", "train.max_iter=2")
    (output / "model_final.pth").replace(output / "model_0000003.pth")
    for name in ("model_final.pth", "last_checkpoint"):
        (output / name).write_bytes((tmp_path / "other" / name).read_bytes())
    train(config, "--resume", *SHORT)
    log = (output / "log.txt").read_text().rpartition("Command line: ")[2]
    assert "Nothing is left to do" in log
    assert "model_0000003.pth" in log


def test_weights_to_start_from_may_lie_in_the_folder(config, output):
    train(config, *SHORT)
    train(config, *SHORT, f"train.init_checkpoint={output}/model_final.pth")
    assert content(output / "model_final.pth")["iteration"] == 3


# ----------------------------------------------------------------------------------------------------------- damages
@pytest.mark.parametrize("junk", [b"\xff\xfe", b"[1, 2]", b'{"iteration": "x"}', b'{"iteration"', b"[" * 100_000])
def test_a_damaged_line_of_metrics_json_is_dropped_and_named(config, output, junk):
    train(config, *SHORT, "train.max_iter=2")
    path = output / "metrics.json"
    lines = path.read_bytes().splitlines()
    path.write_bytes(b"\n".join([lines[0], junk, lines[1]]) + b"\n")
    train(config, "--resume", *SHORT)
    assert [r["iteration"] for r in records(output)] == [0, 1, 2, 3]
    assert f"{path}: dropped line 2, which is not a record" in (output / "log.txt").read_text()


@pytest.mark.parametrize("below", ["", "/below"])
@pytest.mark.parametrize("flags", [(), ("--eval-only",)])
def test_an_output_folder_that_is_a_file(config, tmp_path, capsys, below, flags):
    (tmp_path / "file").write_text("")
    options = [f"train.output_dir={tmp_path}/file{below}", f"train.init_checkpoint={tmp_path}/file"]
    assert run(["--config-file", str(config), *flags, *options]) == EXIT_CONFIG
    assert f"train.output_dir={tmp_path}/file{below}: {tmp_path}/file" in capsys.readouterr().err


# -------------------------------------------------------------------------------------------------------------- lock
def hold(folder: Path, ready) -> None:
    with RunFolder(str(folder)):
        ready.set()
        time.sleep(60)


@pytest.fixture
def other_run(output):
    """A process that holds the folder."""
    context = multiprocessing.get_context("fork")
    ready = context.Event()
    process = context.Process(target=hold, args=(output, ready))
    process.start()
    assert ready.wait(60)
    yield process
    process.kill()
    process.join()


def test_a_second_run_in_the_same_folder_is_refused_and_told_who_holds_it(config, output, other_run, capsys):
    assert run(["--config-file", str(config), *SHORT]) == EXIT_CONFIG
    message = capsys.readouterr().err
    assert f"train.output_dir={output} is in use by another run: process {other_run.pid} on" in message
    assert "Give this run another train.output_dir" in message
    assert [path.name for path in output.iterdir()] == ["run.lock"]


def test_an_evaluation_may_use_the_folder_of_a_run(config, output, tmp_path, request):
    train(config, *SHORT)
    request.getfixturevalue("other_run")
    assert run(["--config-file", str(config), "--eval-only", f"train.init_checkpoint={output}/model_final.pth"]) == 0


def test_a_killed_run_leaves_no_lock(config, output, other_run):
    other_run.kill()
    other_run.join()
    assert (output / "run.lock").exists()
    train(config, "--resume", *SHORT)
    assert not (output / "run.lock").exists()


def test_two_that_start_at_once(tmp_path):
    """Of many processes that want the folder over and over, never two have it."""
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_compete, args=(tmp_path,)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0] * 4
    assert len((tmp_path / "turns").read_text()) > 10


def _compete(folder: Path) -> None:
    for _ in range(300):
        try:
            with RunFolder(str(folder)):
                (folder / "mine").touch(exist_ok=False)
                with (folder / "turns").open("a") as f:
                    f.write(".")
                (folder / "mine").unlink()
        except ConfigError:
            pass


@pytest.mark.parametrize(
    ("changes", "free"),
    [
        ({"pid": 2**22 + 1}, True),  # no such process
        ({"started": "1"}, True),  # another process has its number
        ({}, False),
        ({"host": "elsewhere"}, False),
    ],
)
def test_without_file_locks_the_process_is_looked_up(tmp_path, monkeypatch, changes, free):
    monkeypatch.setattr(run_folder, "fcntl", None)
    me = {"host": socket.gethostname(), "pid": os.getpid(), "started": run_folder._started(os.getpid())}
    (tmp_path / "run.lock").write_text(json.dumps({**me, **changes}))
    if free:
        with RunFolder(str(tmp_path)):
            assert json.loads((tmp_path / "run.lock").read_text())["pid"] == os.getpid()
        assert not (tmp_path / "run.lock").exists()
    else:
        with pytest.raises(ConfigError, match="if its process no longer exists, delete"):
            RunFolder(str(tmp_path))


@pytest.mark.parametrize("text", ["", "{", "[]", '{"pid": "x"}'])
def test_a_lock_that_says_nothing_is_taken_over(tmp_path, text):
    (tmp_path / "run.lock").write_text(text)
    with RunFolder(str(tmp_path)):
        pass
