"""What an installation builds, what it says, and when it fails."""

from __future__ import annotations

from pathlib import Path

import pytest
from setuptools import Distribution, Extension

from detrex_ops import build_extensions
from detrex_ops.build_extensions import BuildExtensions, architectures, extensions, find_cuda, toolkit_root

ROOT = Path(__file__).parents[2]


def script(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def toolkit(tmp_path):
    """A toolkit that knows two architectures, and a wrapper of its compiler on another path."""
    root = tmp_path / "cuda-99"
    (root / "include").mkdir(parents=True)
    (root / "include/cuda_runtime.h").touch()
    lines = f'[ "$1" = --list-gpu-arch ] && echo "compute_80 compute_90" || echo "#$ _HERE_={root}/bin" >&2'
    nvcc = script(root / "bin/nvcc", lines)
    return root, script(tmp_path / "elsewhere/nvcc", f'exec {nvcc} "$@"')


def test_toolkit_behind_a_wrapper(toolkit, monkeypatch):
    root, wrapper = toolkit
    assert toolkit_root(wrapper) == root
    monkeypatch.delenv("CUDA_HOME", raising=False)
    monkeypatch.delenv("CUDA_PATH", raising=False)
    monkeypatch.setenv("PATH", str(wrapper.parent), prepend=":")
    assert find_cuda() == (wrapper, root)


def test_toolkit_of_pip_packages(toolkit, tmp_path, monkeypatch):
    root, _ = toolkit
    packages = tmp_path / "site-packages"
    (packages / "nvidia").mkdir(parents=True)
    root.rename(packages / "nvidia/cu99")
    nvcc = script(packages / "nvidia/cu99/bin/nvcc", f'echo "#$ _HERE_={packages}/nvidia/cu99/bin" >&2')
    for variable in ("CUDA_HOME", "CUDA_PATH"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(build_extensions.shutil, "which", lambda name: None)
    monkeypatch.setattr(build_extensions.sysconfig, "get_path", lambda name: str(packages))
    assert find_cuda() == (nvcc, packages / "nvidia/cu99")


def test_toolkit_without_headers_is_none(toolkit):
    root, wrapper = toolkit
    (root / "include/cuda_runtime.h").unlink()
    assert toolkit_root(wrapper) is None


def test_architectures(toolkit, monkeypatch):
    monkeypatch.delenv("DETREX_OPS_CUDA_ARCH", raising=False)
    assert architectures(toolkit[1]) == ["80", "90"]
    monkeypatch.setenv("DETREX_OPS_CUDA_ARCH", "9.0;8.6")
    assert architectures(toolkit[1]) == ["86", "90"]


@pytest.mark.parametrize(("choice", "names"), [("", ["_cpu", "_cuda"]), ("cpu", ["_cpu"]), ("off", [])])
def test_what_is_tried(choice, names, monkeypatch):
    monkeypatch.setenv("DETREX_OPS_BUILD", choice)
    assert [extension.name.rpartition(".")[2] for extension in extensions()] == names


def test_unknown_choice(monkeypatch):
    monkeypatch.setenv("DETREX_OPS_BUILD", "gpu")
    with pytest.raises(SystemExit, match="DETREX_OPS_BUILD=gpu: expected auto, cpu, cuda or off"):
        extensions()


def build(folder: Path) -> str:
    """Build the CPU part into a folder; the report that is installed with it."""
    command = BuildExtensions(Distribution({"ext_modules": [Extension("detrex_ops._cpu", sources=[])]}))
    command.build_lib, command.build_temp = str(folder / "lib"), str(folder / "temp")
    command.ensure_finalized()
    command.run()
    return (folder / "lib/detrex_ops/_build_report.txt").read_text()


@pytest.mark.parametrize(
    ("compiler", "report"),
    [("false", "cpu: not built: false failed on"), ("", "cpu: not built: there is no C.. compiler")],
)
def test_failing_to_compile_fails_the_installation_only_where_asked(compiler, report, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("CXX", compiler)
    monkeypatch.setattr(build_extensions.shutil, "which", lambda name: None)
    monkeypatch.setenv("DETREX_OPS_BUILD", "auto")
    assert build(tmp_path).startswith(report.replace("C..", "C++"))
    assert "detrex_ops: cpu: not built" in capfd.readouterr().out
    assert not list(tmp_path.rglob("*.so"))
    monkeypatch.setenv("DETREX_OPS_BUILD", "cpu")
    with pytest.raises(SystemExit, match="DETREX_OPS_BUILD=cpu, but the cpu part was not built"):
        build(tmp_path)


def test_without_torch(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("DETREX_OPS_BUILD", "auto")
    monkeypatch.setattr(build_extensions, "find_torch", lambda: None)
    assert build(tmp_path) == "cpu: not built: torch is not installed, so its headers are missing; install it first\n"
