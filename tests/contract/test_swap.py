"""Either host installed over the other, in a throw-away environment, and whatever they import."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

from .conftest import lite_only

SUBSET = Path(__file__).parents[2] / "detectron2_lite"
UPSTREAM = "DETECTRON2_UPSTREAM_WHEEL"


def _python(*arguments: str, executable: str | os.PathLike = sys.executable, cwd: Path | None = None) -> str:
    environment = {**os.environ, "DETECTRON2_LITE_REPLACE": "1"}  # the other host may be installed here
    command = [executable, *arguments]
    process = subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment, check=False)
    assert process.returncode == 0, process.stdout + process.stderr
    return process.stdout


@pytest.fixture(scope="module")
def subset_wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The subset as pip would install it, built from a copy: building writes into the source folder."""
    if int(importlib.metadata.version("setuptools").split(".")[0]) < 77:
        pytest.skip("building the subset's wheel without a network needs setuptools 77 or later")
    folder = tmp_path_factory.mktemp("subset")
    source = shutil.copytree(SUBSET, folder / "source", ignore=shutil.ignore_patterns("build", "*.egg-info"))
    _python("-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", str(folder), str(source))
    return next(folder.glob("*.whl"))


def _files(site_packages: Path) -> set[str]:
    return {str(path.relative_to(site_packages)) for path in site_packages.rglob("*") if path.is_file()}


@pytest.mark.timeout(300)
def test_installing_one_over_the_other_and_back_leaves_nothing_behind(tmp_path: Path, subset_wheel: Path) -> None:
    upstream_wheel = os.environ.get(UPSTREAM)
    if not upstream_wheel:
        pytest.skip(f"{UPSTREAM} names no wheel of the full detectron2")
    venv.create(tmp_path / "env", symlinks=True)
    python = tmp_path / "env" / "bin" / "python"
    site_packages = Path(_python("-c", "import site; print(site.getsitepackages()[0])", executable=python).strip())

    def install(wheel: Path | str) -> set[str]:
        _python("-m", "pip", "--python", str(python), "install", "-q", "--no-deps", "--no-index", str(wheel))
        return _files(site_packages)

    empty = _files(site_packages)
    subset, upstream = install(subset_wheel), install(upstream_wheel)
    assert "detectron2/_subset.py" in subset - upstream
    assert "detectron2/data/datasets/cityscapes.py" in upstream - subset
    assert install(subset_wheel) == subset
    assert install(upstream_wheel) == upstream
    _python("-m", "pip", "--python", str(python), "uninstall", "-q", "-y", "detectron2")
    assert _files(site_packages) == empty


@lite_only("it is built from another source tree")
def test_the_wheel_has_all_files_of_the_source(subset_wheel: Path) -> None:
    source = {path for path in (SUBSET / "src").rglob("*") if path.is_file() and path.suffix != ".pyc"}
    expected = {path.relative_to(SUBSET / "src").as_posix() for path in source if "egg-info" not in str(path)}
    packed = {name for name in zipfile.ZipFile(subset_wheel).namelist() if ".dist-info/" not in name}
    assert packed == expected


HEAVY = {"cv2", "hotcoco", "matplotlib", "pandas", "safetensors", "scipy", "tensorboard", "timm", "torchvision"}
UNUSED = {
    "detectron2.config": HEAVY | {"PIL", "hydra", "pycocotools", "torch"},
    "detectron2.engine": HEAVY | {"PIL", "hydra", "pycocotools"},
    "detectron2.checkpoint": HEAVY | {"PIL", "hydra", "pycocotools"},
    "detectron2.modeling": HEAVY | {"PIL", "hydra", "pycocotools"},
    "detectron2.data": HEAVY | {"hydra", "pycocotools"},
    "detectron2.evaluation": HEAVY | {"hydra", "pycocotools"},
}


@lite_only("importing any part imports torchvision, matplotlib and OpenCV")
@pytest.mark.parametrize("module", UNUSED)
def test_importing_a_part_does_not_import_what_it_does_not_use(module: str, tmp_path: Path) -> None:
    script = f"import sys, {module}; print(*sys.modules, sep='\\n')"
    loaded = set(_python("-W", "error::DeprecationWarning:detectron2", "-c", script, cwd=tmp_path).split())
    assert module in loaded
    assert not loaded & UNUSED[module]
