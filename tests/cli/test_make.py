"""The scripts behind the Makefile: what a set installs, and what a stage prints."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def script(name: str, *arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, str(ROOT / ".ci" / name), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def names(text: str) -> set[str]:
    return {re.match(r"[\w.-]+", line)[0].lower() for line in text.splitlines()}


def test_the_demo_installs_nothing_that_only_tests_documentation_or_export_need():
    demo = names(script("requirements", "demo").stdout)
    assert {"torch", "fvcore", "timm", "hotcoco"} <= demo
    assert not demo & {"detectron2", "detrex", "pytest", "sphinx", "onnx", "transformers", "ruff", "av"}


@pytest.mark.parametrize(
    ("name", "some"),
    [("test", {"pytest", "onnx", "transformers", "sphinx"}), ("docs", {"sphinx"}), ("lint", {"ruff", "codespell"})],
)
def test_a_set_adds_its_own_packages_only(name, some):
    found = names(script("requirements", name).stdout)
    assert some <= found
    assert "torch" not in found


def test_a_stage_says_what_it_does_and_how_long_it_took(tmp_path):
    log = str(tmp_path / "log")
    for _ in range(2):  # a repeated stage replaces its line
        result = script("stage", "--log", log, "Counting", sys.executable, "-c", "sum(range(10**6))")
        assert result.returncode == 0
        assert re.fullmatch(r"== Counting\n   done in [\d.]+ s, [\d.]+ s of processor time\n", result.stdout)
    script("stage", "--log", log, "Waiting", sys.executable, "-c", "")
    table = script("stage", "--table", log).stdout
    assert [line.split()[-1] for line in table.splitlines()[2:]] == ["Counting", "Waiting", "together"]


def test_a_failing_stage_fails_and_is_not_in_the_table(tmp_path):
    log = tmp_path / "log"
    result = script("stage", "--log", str(log), "Failing", sys.executable, "-c", "raise SystemExit(3)")
    assert result.returncode == 3
    assert "failed with status 3" in result.stdout
    assert not log.exists()


@pytest.mark.skipif(shutil.which("make") is None, reason="there is no make")
def test_the_demo_compiles_and_trains_after_its_own_packages_only(tmp_path):
    """What `make demo` would do from nothing, without doing it."""
    command = ["make", "-n", "-C", str(ROOT), "demo", f"VENV={tmp_path / 'venv'}"]
    steps = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    assert "requirements demo" in steps
    assert "-m detrex demo" in steps
    assert "requirements test" not in steps
