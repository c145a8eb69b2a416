"""Only the wheel is there: the program and its configs work from a folder that holds nothing."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import detectron2
import pytest

ROOT = Path(__file__).parents[2]
SOURCES = ("detrex", "detrex_ops", "projects", "configs", "pyproject.toml", "setup.py", "README.md", "LICENSE")
CONFIG = "projects/deformable_detr/configs/custom_small.py"
FEW = ["--num-train", "8", "--num-val", "4", "--image-size", "64"]
QUICK = ["train.max_iter=2", "train.warmup=1", "train.device=cpu", "dataloader.test.num_workers=0"]

pytest.importorskip("wheel", reason="pip builds without isolation, which needs setuptools and wheel")


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """What pip would put into site-packages; the operator's Python part only, which takes a second to build."""
    tree, folder = tmp_path_factory.mktemp("tree"), tmp_path_factory.mktemp("site")
    for name in SOURCES:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, tree / name, ignore=shutil.ignore_patterns("__pycache__", "*.so", "build"))
        else:
            shutil.copy(source, tree)
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    environment = {**os.environ, "DETREX_OPS_BUILD": "off", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    subprocess.run([*build, "--wheel-dir", str(tree / "dist"), str(tree)], env=environment, check=True, timeout=240)
    (wheel,) = (tree / "dist").glob("detrex-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    shutil.rmtree(tree)
    return folder


@pytest.fixture
def detrex(installed, tmp_path):
    """Run ``python -m detrex`` in an empty folder, with the wheel's files in front of this repository's."""
    host = Path(detectron2.__file__).parents[1]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(installed), str(host)]), "OMP_NUM_THREADS": "1"}

    def run(*arguments: str, status: int = 0) -> str:
        program = [sys.executable, "-m", "detrex", *arguments]
        done = subprocess.run(
            program, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=280
        )
        assert done.returncode == status, f"{arguments}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        return done.stdout + done.stderr

    return run


def test_the_wheel_has_the_program_and_every_config(installed):
    (entries,) = installed.glob("detrex-*.dist-info/entry_points.txt")
    assert "detrex = detrex.__main__:main" in entries.read_text()
    for pattern in ("projects/*/configs/**/*.py", "projects/*/zoo.json", "detrex/report/*.html"):
        files = {path.relative_to(ROOT) for path in ROOT.glob(pattern)}
        assert files
        assert not [file for file in files if not (installed / file).is_file()]
    configs = {path.relative_to(ROOT / "configs") for path in (ROOT / "configs").rglob("*.py")}
    assert not [file for file in configs if not (installed / "detrex/configs" / file).is_file()]


def test_the_demo_runs_in_an_empty_folder_and_the_command_that_it_prints(detrex, installed):
    printed = detrex("demo", *FEW, *QUICK)
    assert "Everything is in output/demo" in printed
    command = shlex.split(printed.partition("The same AP again:\n")[2].splitlines()[0])
    assert command[1:3] == ["-m", "detrex"]
    again = detrex(*command[3:], *QUICK)
    ap = printed.partition("\nAP: ")[2].splitlines()[0]
    assert f"{float(again.rsplit('copypaste: ', 1)[1].split(',')[0]):.1f}" == ap or ap == "nan"


def test_configs_go_by_name(detrex, tmp_path):
    """A data set of one's own, as in the README: checked, trained on, reported."""
    detrex("demo", "--data-only", "--output", "shapes", *FEW)
    data = "dataloader.data.root=shapes"
    assert "Can be trained on." in detrex("check-data", "--output", "check", data)
    small = ["model.backbone.depth=18"] if "resnet" in CONFIG else []
    detrex("train", "--config-file", CONFIG, data, *QUICK, *small, "train.output_dir=run", "train.init_checkpoint=''")
    assert {"model_final.pth", "report.html", "config.yaml"} <= {path.name for path in (tmp_path / "run").iterdir()}
    detrex("evaluate", "--config-file", "run/config.yaml", "--weights", "run/model_final.pth", "train.device=cpu")


def test_the_zoo_and_the_doctor(detrex, installed):
    assert "detrex evaluate --config-file projects/h_deformable_detr/configs/" in detrex("zoo", "list")
    assert str(installed / "detrex") in detrex("doctor")
