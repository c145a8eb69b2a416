"""Installing detectron2_lite where there is another detectron2."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

HOST = Path(__file__).resolve().parents[2] / "detectron2_lite"


@pytest.fixture
def command(tmp_path):
    """``setup.py --version`` in an environment that holds a detectron2 of a version; returns the process."""

    def run(version: str | None, **environment: str) -> subprocess.CompletedProcess:
        if version is not None:
            folder = tmp_path / f"detectron2-{version}.dist-info"
            folder.mkdir()
            (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: detectron2\nVersion: {version}\n")
        variables = {**os.environ, "PYTHONPATH": str(tmp_path), **environment}
        arguments = [sys.executable, "setup.py", "--version"]
        return subprocess.run(arguments, cwd=HOST, env=variables, capture_output=True, text=True, check=False)

    return run


def test_another_detectron2_is_not_replaced_silently(command):
    result = command("0.6")
    assert result.returncode == 1
    assert "error: detectron2 0.6 in " in result.stderr
    assert "leave ./detectron2_lite out of the command" in result.stderr


def test_it_is_replaced_where_told_to(command):
    assert command("0.6", DETECTRON2_LITE_REPLACE="1").returncode == 0


@pytest.mark.parametrize("version", [None, "0.6+lite.0"])
def test_an_empty_environment_and_an_older_one_are_no_obstacle(command, version):
    result = command(version)
    assert result.returncode == 0
    assert "+lite" in result.stdout
