"""Benchmark scripts start, although one of them is named like a module of the standard library."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"
SCRIPTS = sorted(path.name for path in FOLDER.glob("*.py") if "sys.path.pop" in path.read_text())
SPAWN = """
import multiprocessing
import operator  # as a library would: collections, statistics, ...

def answer(pipe):
    pipe.send(operator.add(1, 2))

if __name__ == "__main__":
    mine, theirs = multiprocessing.Pipe()
    child = multiprocessing.get_context("spawn").Process(target=answer, args=(theirs,))
    child.start()
    print(mine.recv())
    child.join()
"""


def run(script: Path, *arguments: str, cwd: Path) -> str:
    # -S: without site-packages, whose .pth files may have loaded the module before the script could hide it.
    flags = ["-S"] if not arguments else []
    command = [sys.executable, *flags, str(script), *arguments]
    result = subprocess.run(command, capture_output=True, text=True, cwd=cwd, check=False)
    assert result.returncode == 0, result.stderr[-2000:]
    return result.stdout


def test_all_scripts_are_found():
    assert {"operator.py", "train_step.py", "inference.py", "gpu_check.py", "official_parity.py"} <= set(SCRIPTS)


@pytest.mark.parametrize("script", SCRIPTS)
def test_starts(script, tmp_path):
    assert "usage:" in run(FOLDER / script, "--help", cwd=tmp_path)


@pytest.mark.parametrize("script", SCRIPTS)
def test_first_lines_find_the_standard_module(script, tmp_path):
    """In the script and in a child that imports the script again, as the contestants' processes do."""
    lines = (FOLDER / script).read_text().splitlines()
    last = next(number for number, line in enumerate(lines) if line.startswith("sys.path.insert"))
    folder = tmp_path / "benchmarks"
    folder.mkdir()
    (folder / "operator.py").write_text("raise ImportError('the wrong module')")
    (folder / script.replace("operator", "start")).write_text("\n".join(lines[: last + 1]) + SPAWN)
    assert run(folder / script.replace("operator", "start"), cwd=tmp_path).strip() == "3"
