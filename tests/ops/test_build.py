"""What an installation builds, what it says, and when it fails."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from setuptools import Distribution, Extension

from detrex_ops import build_extensions
from detrex_ops.build_extensions import (
    BuildExtensions,
    architectures,
    extensions,
    find_cuda,
    find_torch,
    gencode_flags,
    toolkit_root,
    wanted,
)

ROOT = Path(__file__).parents[2]
VARIABLES = ("DETREX_OPS_BUILD", "DETREX_OPS_CUDA_ARCH", "FORCE_CUDA", "CUDA_HOME", "CUDA_PATH", "CXX", "MAX_JOBS")


@pytest.fixture(autouse=True)
def nothing_asked_for(monkeypatch):
    """No variable of the build is set, and there is no GPU."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(build_extensions, "gpu_architectures", list)


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
    monkeypatch.setenv("PATH", str(wrapper.parent), prepend=":")
    assert find_cuda() == (wrapper, root)


def test_toolkit_of_pip_packages(toolkit, tmp_path, monkeypatch):
    root, _ = toolkit
    packages = tmp_path / "site-packages"
    (packages / "nvidia").mkdir(parents=True)
    root.rename(packages / "nvidia/cu99")
    nvcc = script(packages / "nvidia/cu99/bin/nvcc", f'echo "#$ _HERE_={packages}/nvidia/cu99/bin" >&2')
    monkeypatch.setattr(build_extensions.shutil, "which", lambda name: None)
    monkeypatch.setattr(build_extensions.sysconfig, "get_path", lambda name: str(packages))
    assert find_cuda() == (nvcc, packages / "nvidia/cu99")


def test_toolkit_without_headers_is_none(toolkit):
    root, wrapper = toolkit
    (root / "include/cuda_runtime.h").unlink()
    assert toolkit_root(wrapper) is None


@pytest.mark.parametrize(
    ("asked_for", "gpus", "expected"),
    [
        ("", [], ["80", "90"]),  # what the compiler knows
        ("", ["86"], ["86"]),
        ("9.0;8.6", ["75"], ["86", "90"]),
        ("all", ["86"], ["80", "90"]),
    ],
)
def test_architectures(asked_for, gpus, expected, toolkit, monkeypatch):
    monkeypatch.setenv("DETREX_OPS_CUDA_ARCH", asked_for)
    monkeypatch.setattr(build_extensions, "gpu_architectures", lambda: gpus)
    assert architectures(toolkit[1]) == expected


def test_machine_code_for_each_architecture_and_intermediate_code_for_the_next():
    assert gencode_flags(["75", "86", "120"]) == [
        "-gencode=arch=compute_75,code=sm_75",
        "-gencode=arch=compute_80,code=sm_86",
        "-gencode=arch=compute_90,code=sm_120",
        "-gencode=arch=compute_90,code=compute_90",
    ]


@pytest.mark.parametrize(("choice", "names"), [("", ["_cpu", "_cuda"]), ("cpu", ["_cpu"]), ("off", [])])
def test_what_is_tried(choice, names, monkeypatch):
    monkeypatch.setenv("DETREX_OPS_BUILD", choice)
    assert [extension.name.rpartition(".")[2] for extension in extensions()] == names


def test_unknown_choice(monkeypatch):
    monkeypatch.setenv("DETREX_OPS_BUILD", "gpu")
    with pytest.raises(SystemExit, match="DETREX_OPS_BUILD=gpu: expected auto, cpu, cuda or off"):
        extensions()


@pytest.mark.parametrize(("value", "choice"), [("1", "cuda"), ("0", "auto"), ("", "auto")])
def test_the_variable_that_other_packages_have(value, choice, monkeypatch):
    monkeypatch.setenv("FORCE_CUDA", value)
    assert wanted() == choice


def build(folder: Path, part: str = "cpu") -> str:
    """Build a part into a folder; the report that is installed with it."""
    command = BuildExtensions(Distribution({"ext_modules": [Extension(f"detrex_ops._{part}", sources=[])]}))
    command.build_lib, command.build_temp = str(folder / "lib"), str(folder / "temp")
    command.ensure_finalized()
    command.run()
    return (folder / "lib/detrex_ops/_build_report.txt").read_text()


@pytest.mark.parametrize(
    ("compiler", "report"),
    [
        ("false", "cpu: not built: compiling dispatch.cpp failed (false)"),
        ("", "cpu: not built: there is no C.. compiler"),
    ],
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


@pytest.mark.parametrize(
    ("variable", "value", "expected"),
    [
        ("DETREX_OPS_BUILD", "auto", "this machine has no NVIDIA GPU; .* DETREX_OPS_BUILD=cuda"),
        ("DETREX_OPS_CUDA_ARCH", "9.0", "there is no CUDA toolkit"),
    ],
)
def test_cuda_is_compiled_where_there_is_a_gpu_or_where_asked_for(variable, value, expected, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(build_extensions, "find_cuda", lambda: None)
    monkeypatch.setenv(variable, value)
    assert re.fullmatch(f"cuda: not built: {expected}.*\n", build(tmp_path, "cuda"))


def test_cuda_that_has_to_be_built_fails_the_installation_without_a_toolkit(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(build_extensions, "find_cuda", lambda: None)
    monkeypatch.setenv("FORCE_CUDA", "1")
    with pytest.raises(SystemExit, match="the cuda part was not built: there is no CUDA toolkit"):
        build(tmp_path, "cuda")


@pytest.fixture
def fake_compiler(tmp_path, monkeypatch):
    """A compiler that writes its command into a log and something into the output; and small sources for it."""
    sources = tmp_path / "detrex_ops/csrc"
    (sources / "cpu").mkdir(parents=True)
    for name in ("cpu/one.cpp", "cpu/two.cpp", "cpu/shared.inl", "problem.h"):
        (sources / name).write_text("1")
    for abi in ("stable", "aten"):
        (sources / f"binding_cpu_{abi}.cpp").write_text("1")
    log = tmp_path / "log"
    text = f'echo "$@" >> {log}\nwhile [ "$1" != -o ]; do shift; done\necho made > "$2"'
    monkeypatch.setenv("CXX", str(script(tmp_path / "c++", text)))
    monkeypatch.chdir(tmp_path)
    return log


def compiled(log: Path) -> list[str]:
    """What was compiled since the last call, by name."""
    lines = log.read_text().splitlines() if log.exists() else []
    log.unlink(missing_ok=True)
    return sorted(Path(line.split(" -c ")[1].split()[0]).name for line in lines if " -c " in line)


needs_torch = pytest.mark.skipif(find_torch() is None, reason="torch's headers are not there")


@needs_torch
def test_a_second_installation_compiles_nothing(fake_compiler, tmp_path):
    build(tmp_path)
    assert compiled(fake_compiler)[1:] == ["one.cpp", "two.cpp"]
    build(tmp_path)
    assert compiled(fake_compiler) == []
    (tmp_path / "detrex_ops/csrc/cpu/one.cpp").touch()  # what counts is what it says
    build(tmp_path)
    assert compiled(fake_compiler) == []


@needs_torch
@pytest.mark.parametrize("change", ["cpu/shared.inl", "problem.h", "flags", "compiler", "an object"])
def test_what_an_object_depends_on_compiles_it_again(change, fake_compiler, tmp_path, monkeypatch):
    build(tmp_path)
    everything = compiled(fake_compiler)
    if change == "flags":
        monkeypatch.setenv("CXXFLAGS", "-DNDEBUG")
    elif change == "compiler":
        monkeypatch.setattr(build_extensions, "compiler_version", lambda compiler: "another")
    elif change == "an object":
        next(tmp_path.rglob("one.o")).unlink()
        everything = ["one.cpp"]
    else:
        (tmp_path / "detrex_ops/csrc" / change).write_text("2")
    build(tmp_path)
    assert compiled(fake_compiler) == everything


@needs_torch
def test_a_failing_step_is_named(fake_compiler, tmp_path, monkeypatch):
    """A link was once named by one of its options: "g++ failed on -L/...". A failure is not remembered as done."""
    compiler = tmp_path / "c++"
    works = compiler.read_text()
    script(compiler, 'case "$*" in *-shared*) echo no such library; exit 1;; esac\n' + works.partition("\n")[2])
    assert re.fullmatch(r"cpu: not built: linking _cpu\S*\.so failed \(c\+\+\): no such library\n", build(tmp_path))
    next(tmp_path.rglob("two.o")).unlink()
    script(compiler, 'case "$*" in *two.cpp*) echo syntax; exit 1;; esac\n' + works.partition("\n")[2])
    assert build(tmp_path) == "cpu: not built: compiling two.cpp failed (c++): syntax\n"
    monkeypatch.setenv("DETREX_OPS_BUILD", "cpu")
    with pytest.raises(SystemExit, match=r"the cpu part was not built: compiling two\.cpp failed"):
        build(tmp_path)
