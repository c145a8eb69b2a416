"""The program ``detrex``: it finds its commands, says what is wrong, and starts at once."""

from __future__ import annotations

import argparse
import importlib
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import detrex
from detrex.__main__ import COMMANDS, main
from detrex.cli.visualize import view_parsers

ROOT = Path(__file__).parents[2]
SCRIPTS = {
    "analyze_model": "analyze",
    "check_data": "check-data",
    "convert_checkpoint": "convert",
    "demo": "predict",
    "export": "export",
    "make_demo_data": "demo",
    "migrate_config": "migrate",
    "model_zoo": "zoo",
    "plot_metrics": "visualize curves",
    "report": "report",
    "run_demo": "demo",
    "slurm_train": "slurm",
    "train_net": "train",
    "visualize_data": "visualize dataset",
    "visualize_results": "visualize results",
}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_shows_its_help_with_an_example(command, capsys):
    with pytest.raises(SystemExit) as end:
        main([command, "--help"])
    assert end.value.code == 0
    text = capsys.readouterr().out
    assert text.startswith(f"usage: detrex {command} ")
    assert f"detrex {command}" in text.partition("example")[2]


@pytest.mark.parametrize("view", ["dataset", "results", "curves"])
def test_every_view_shows_its_help_with_an_example(view, capsys):
    with pytest.raises(SystemExit) as end:
        main(["visualize", view, "--help"])
    assert end.value.code == 0
    assert f"example: detrex visualize {view} " in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("command", sorted(set(COMMANDS) - {"doctor", "slurm", "visualize"}))
def test_a_tilde_in_a_path_is_the_home_folder(command):
    module, _, function = COMMANDS[command][0].partition(":")
    module = importlib.import_module(f"detrex.cli.{module}")
    parser = module.build_parser(*(["evaluate"] if function == "evaluate" else []))
    check_paths(parser)


def test_a_tilde_in_a_path_of_a_view_is_the_home_folder():
    for parser in view_parsers().values():
        check_paths(parser)


def check_paths(parser: argparse.ArgumentParser) -> None:
    metavars = {"FILE", "FOLDER", "PATH", "JSON", "SRC", "DST", "RUN", "OUTPUT_DIR"}
    names = {"config_file", "output", "checkpoints", "record"}
    paths = [action for action in parser._actions if action.metavar in metavars or action.dest in names]
    assert paths
    for action in paths:
        assert os.fspath(action.type("~/x")) == os.path.expanduser("~/x"), action.dest


def test_every_script_of_tools_is_a_command():
    """Scripts of a few lines, in a tree that is not installed: without PYTHONPATH and in another folder."""
    assert {path.stem for path in (ROOT / "tools").glob("*.py")} == set(SCRIPTS)
    code = """
        import runpy, sys
        for name in sys.argv[2:]:
            sys.argv = [name, "--help"]
            try:
                runpy.run_path(f"{ROOT}/tools/{name}.py", run_name="__main__")
            except SystemExit as end:
                assert not end.code, name
    """
    elsewhere = [path for path in sys.path if path and not (Path(path) / "detrex").is_dir()]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(elsewhere)}
    program = [sys.executable, "-c", f"ROOT = {str(ROOT)!r}\n{textwrap.dedent(code)}", "-", *SCRIPTS]
    done = subprocess.run(program, env=environment, capture_output=True, text=True, check=False, cwd="/", timeout=120)
    assert done.returncode == 0, done.stderr
    usages = [line.removeprefix("usage: detrex ") for line in done.stdout.splitlines() if line.startswith("usage:")]
    assert len(usages) == len(SCRIPTS)
    for usage, command in zip(usages, SCRIPTS.values(), strict=True):
        assert usage.startswith(f"{command} ")


def test_an_unknown_command_suggests_the_nearest(capsys):
    assert main(["trian", "--config-file", "x.py"]) == 2
    assert capsys.readouterr().err == "error: detrex has no command 'trian'. Did you mean train?\n"
    assert main(["check_data"]) == 2
    assert "Did you mean check-data?" in capsys.readouterr().err
    assert main(["qqqq"]) == 2
    assert "Commands: demo, doctor, check-data, train" in capsys.readouterr().err


def test_without_a_command_the_help_is_shown(capsys):
    assert main([]) == 2
    shown = capsys.readouterr().out
    assert main(["--help"]) == 0
    assert capsys.readouterr().out == shown
    assert all(f"\n  {command} " in shown for command in COMMANDS)


def test_the_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"detrex {detrex.__version__}\n"


def test_help_and_version_import_no_torch():
    code = "import sys; from detrex.__main__ import main; main(['--help']); main(['--version']); print(*sys.modules)"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert not {"torch", "numpy", "omegaconf", "detectron2"} & set(done.stdout.split())


def test_wrong_input_is_one_line_and_status_2(tmp_path, capsys):
    absent = str(tmp_path / "absent.py")
    weights = str(tmp_path / "absent.pth")
    pictures = ["--output", str(tmp_path / "out")]
    for arguments in (
        ["train", "--config-file", absent],
        ["train"],
        ["evaluate", "--config-file", absent, "--weights", weights],
        ["predict", "--weights", weights, "--input", str(tmp_path), *pictures],
        ["export", "--weights", weights, *pictures],
        ["report", str(tmp_path / "absent")],
        ["check-data", "--config-file", absent],
        ["visualize", "dataset", "--config-file", absent, *pictures],
        ["visualize", "curves", str(tmp_path)],
        ["convert", weights, str(tmp_path / "new.pth")],
        ["analyze", "--config-file", absent],
        ["benchmark", "--config-file", absent],
        ["migrate", absent],
        ["slurm", "--config-file", absent],
    ):
        assert main(arguments) == 2, arguments
        lines = capsys.readouterr().err.splitlines()
        assert len([line for line in lines if line.startswith("error: ")]) == 1, lines
        assert "Traceback" not in "".join(lines)


def test_evaluate_takes_weights_with_any_name(tmp_path, capsys):
    config = "projects/deformable_detr/configs/demo_shapes.py"
    weights = tmp_path / "best (1), new.pth"
    assert main(["evaluate", "--config-file", config, "--weights", str(weights), "dataloader.data.root=/absent"]) == 2
    assert main(["evaluate", "--config-file", config]) == 2
    assert "needs weights" in capsys.readouterr().err


def test_benchmark_times_both(capsys):
    config = "projects/deformable_detr/configs/demo_shapes.py"
    options = ["--image-size", "64", "96", "--repeats", "1", "--batch-size", "2", "train.device=cpu"]
    assert main(["benchmark", "--config-file", config, *options, "dataloader.data.root=/absent"]) == 0
    first, training, inference = capsys.readouterr().out.splitlines()[-3:]
    assert "deformable attention by" in first
    for line, task in ((training, "training"), (inference, "inference")):
        assert line.startswith(f"{task:9}: ")
        assert "images/s (median of 1 batch of 2 images)" in line
