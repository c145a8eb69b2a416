"""How setup.py builds the extensions. Used at build time only; imports neither torch nor this package.

The extensions hold no Python code and need of torch only headers and libtorch_cpu, so it is found, not imported: in the
running interpreter, or, where pip isolates the build, in the environment that it installs into.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import re
import shlex
import shutil
import subprocess
import sysconfig
from dataclasses import dataclass
from pathlib import Path

from setuptools import Extension
from setuptools.command.build_ext import build_ext

SOURCES = Path("detrex_ops/csrc")
STABLE_ABI = (2, 10)
ARCHITECTURES = ("7.5", "8.0", "8.6", "8.9", "9.0", "10.0", "12.0")


@dataclass(frozen=True)
class Torch:
    """An installed torch: its package folder and version (major, minor)."""

    root: Path
    version: tuple[int, int]

    @property
    def stable(self) -> bool:
        """Whether the extensions can be built on the stable ABI."""
        return self.version >= STABLE_ABI


def wanted() -> str:
    """The value of DETREX_OPS_BUILD."""
    choice = os.environ.get("DETREX_OPS_BUILD", "") or "auto"
    if choice not in ("auto", "cpu", "cuda", "off"):
        raise SystemExit(f"DETREX_OPS_BUILD={choice}: expected auto, cpu, cuda or off")
    return choice


def find_torch() -> Torch | None:
    """The torch to build against, or None."""
    folders = [Path(sysconfig.get_path(scheme)) / "torch" for scheme in ("purelib", "platlib")]
    found = importlib.util.find_spec("torch")
    if found is not None and found.origin is not None:
        folders.insert(0, Path(found.origin).parent)
    for folder in folders:
        if (folder / "version.py").exists() and (folder / "include").exists():
            major, minor = re.search(r"__version__ = ['\"](\d+)\.(\d+)", (folder / "version.py").read_text()).groups()
            return Torch(folder, (int(major), int(minor)))
    return None


def find_cuda() -> tuple[Path, Path] | None:
    """(nvcc, toolkit root). The root is what nvcc itself reports: the nvcc on the path may be a wrapper."""
    candidates = [os.environ.get(name) for name in ("CUDA_HOME", "CUDA_PATH")]
    compilers = [Path(home) / "bin/nvcc" for home in candidates if home]
    if on_path := shutil.which("nvcc"):
        compilers.append(Path(on_path))
    packages = Path(sysconfig.get_path("purelib")) / "nvidia"
    compilers += [*sorted(packages.glob("cu*/bin/nvcc")), packages / "cuda_nvcc/bin/nvcc"]
    compilers += [*sorted(Path("/usr/local").glob("cuda*/bin/nvcc"), reverse=True)]
    for nvcc in compilers:
        if nvcc.exists() and (root := toolkit_root(nvcc)) is not None:
            return nvcc, root
    return None


def toolkit_root(nvcc: Path) -> Path | None:
    """The parent of the folder that holds the real nvcc, if the toolkit there has its headers."""
    try:
        listing = subprocess.run(
            [nvcc, "--dryrun", "-c", "x.cu"], capture_output=True, text=True, timeout=60, check=False
        )
    except OSError:
        return None
    real = re.search(r"_HERE_=(.+)", listing.stderr)
    root = Path(real.group(1).strip()).resolve().parent if real else nvcc.resolve().parent.parent
    headers = (root / "include/cuda_runtime.h", root / "targets/x86_64-linux/include/cuda_runtime.h")
    return root if any(header.exists() for header in headers) else None


def extensions() -> list[Extension]:
    """What is to be tried: decided here, found or missed in :class:`BuildExtensions`."""
    if wanted() == "off":
        return []
    names = ["cpu"] if wanted() == "cpu" else ["cpu", "cuda"]
    # Limited API: the files hold no Python code at all, so that one serves every version.
    return [Extension(f"detrex_ops._{name}", sources=[], optional=True, py_limited_api=True) for name in names]


class BuildExtensions(build_ext):
    """Builds each extension or says why not, in the log and in ``_build_report.txt`` beside it."""

    def run(self) -> None:
        self.report: list[str] = []
        super().run()
        for line in self.report:
            print(f"detrex_ops: {line}", flush=True)
        folder = Path("detrex_ops") if self.inplace else Path(self.build_lib) / "detrex_ops"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "_build_report.txt").write_text("\n".join(self.report) + "\n")

    def build_extension(self, ext: Extension) -> None:
        name = ext.name.rpartition("_")[2]
        target = Path(self.get_ext_fullpath(ext.name))
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            self.report.append(f"{name}: {self.build_part(name, target)}")
        except Exception as error:
            target.unlink(missing_ok=True)
            if wanted() == name or wanted() == "cuda":
                raise SystemExit(f"DETREX_OPS_BUILD={wanted()}, but the {name} part was not built: {error}") from error
            self.report.append(f"{name}: not built: {error}")

    def build_part(self, name: str, target: Path) -> str:
        """Compile and link one extension; returns what was built, raises RuntimeError saying what is missing."""
        torch = find_torch()
        if torch is None:
            raise RuntimeError("torch is not installed, so its headers are missing; install it first")
        if platform.system() == "Windows":
            raise RuntimeError("the kernels need GCC or Clang, which torch for Windows is not built for")
        compiler = os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")
        if not compiler:
            raise RuntimeError("there is no C++ compiler (looked for $CXX, g++, clang++)")
        objects = Path(self.build_temp) / name
        objects.mkdir(parents=True, exist_ok=True)
        libraries = [f"-L{torch.root / 'lib'}", "-ltorch_cpu", "-lc10"]
        abi = (
            f"on the stable ABI of torch {STABLE_ABI[0]}.{STABLE_ABI[1]}"
            if torch.stable
            else f"for torch {torch.version}"
        )
        if name == "cpu":
            commands, detail = cpu_commands(compiler, torch, objects), f"built {abi} with {Path(compiler).name}"
        else:
            commands, libs, detail = cuda_commands(compiler, torch, objects)
            libraries += libs
            detail = f"built {abi} {detail}"
        run_all(commands)
        files = [command[-1] for command in commands]
        shared = ["-undefined", "dynamic_lookup"] if platform.system() == "Darwin" else ["-Wl,--as-needed"]
        run_all([[compiler, "-shared", *shared, *flags_of("LDFLAGS"), "-o", str(target), *files, *libraries]])
        return detail


def flags_of(variable: str) -> list[str]:
    """Further flags from the environment, which come after ours and so win."""
    return shlex.split(os.environ.get(variable, ""))


def cpu_commands(compiler: str, torch: Torch, objects: Path) -> list[list[str]]:
    """One compilation for each file; the kernels choose their instruction sets themselves."""
    flags = ["-O3", "-std=c++17", "-fPIC", "-fvisibility=hidden", "-ffp-contract=fast", *flags_of("CXXFLAGS")]
    if "clang" not in Path(compiler).name and platform.system() != "Darwin":
        flags.append("-Wno-psabi")
    kernels = [[compiler, *flags, "-c", str(path)] for path in sorted((SOURCES / "cpu").glob("*.cpp"))]
    return with_outputs([*kernels, binding_command(compiler, torch, "cpu")], objects)


def cuda_commands(compiler: str, torch: Torch, objects: Path) -> tuple[list[list[str]], list[str], str]:
    """Compilations, libraries to link, and a description; raises RuntimeError without a usable toolkit."""
    found = find_cuda()
    if found is None:
        raise RuntimeError(
            "there is no CUDA toolkit (looked for nvcc in $CUDA_HOME, on the path, in pip's nvidia packages)"
        )
    nvcc, root = found
    chosen = architectures(nvcc)
    flags = ["-std=c++17", "-O3", "--threads", "0", "-Xcompiler", "-fPIC,-fvisibility=hidden", "-ccbin", compiler]
    flags += [f"-gencode=arch=compute_{arch},code=sm_{arch}" for arch in chosen]
    flags.append(f"-gencode=arch=compute_{chosen[-1]},code=compute_{chosen[-1]}")  # PTX, for what comes later
    kernels = [str(nvcc), *flags, "-c", str(SOURCES / "cuda/launch.cu")]
    # The runtime is linked in, so that the file does not depend on the CUDA version that torch came with.
    folders = [
        f"-L{root / folder}" for folder in ("lib64", "lib", "targets/x86_64-linux/lib") if (root / folder).exists()
    ]
    libraries = [*folders, "-lcudart_static", "-lpthread", "-ldl", "-lrt"]
    detail = f"with {nvcc} ({root}) for sm_{', sm_'.join(chosen)}"
    return with_outputs([kernels, binding_command(compiler, torch, "cuda")], objects), libraries, detail


def architectures(nvcc: Path) -> list[str]:
    """ "80", "90", ...: DETREX_OPS_CUDA_ARCH, or those of ARCHITECTURES that this nvcc still or already knows."""
    if chosen := os.environ.get("DETREX_OPS_CUDA_ARCH"):
        return sorted((arch.strip().replace(".", "") for arch in chosen.split(";")), key=int)
    known = subprocess.run([nvcc, "--list-gpu-arch"], capture_output=True, text=True, check=False).stdout
    wanted_ones = [arch.replace(".", "") for arch in ARCHITECTURES]
    return [arch for arch in wanted_ones if f"compute_{arch}" in known.split()] or ["80"]


def binding_command(compiler: str, torch: Torch, part: str) -> list[str]:
    """The file that registers a part's operators, for the ABI that this torch offers."""
    abi = "stable" if torch.stable else "aten"
    flags = ["-O2", "-std=c++17", "-fPIC", "-fvisibility=hidden", *flags_of("CXXFLAGS"), *torch_flags(torch)]
    return [compiler, *flags, "-c", str(SOURCES / f"binding_{part}_{abi}.cpp")]


def with_outputs(commands: list[list[str]], objects: Path) -> list[list[str]]:
    """Each with an object file named after its source, which comes last in the command."""
    return [[*command, "-o", str(objects / f"{Path(command[-1]).stem}.o")] for command in commands]


def torch_flags(torch: Torch) -> list[str]:
    """Include paths and the macros that select the ABI."""
    include = torch.root / "include"
    flags = [f"-I{include}", f"-I{include / 'torch/csrc/api/include'}"]
    if torch.stable:
        return [*flags, f"-DTORCH_TARGET_VERSION=0x{STABLE_ABI[0]:02x}{STABLE_ABI[1]:02x}000000000000"]
    # The compiler's own default for the C++11 ABI of libstdc++ may differ from torch's.
    raises = b"torchCheckFailEPKcS2_jRKNSt7__cxx11"
    return [*flags, f"-D_GLIBCXX_USE_CXX11_ABI={int(raises in (torch.root / 'lib/libc10.so').read_bytes())}"]


def run_all(commands: list[list[str]]) -> None:
    """Run up to MAX_JOBS commands at a time; a failure raises RuntimeError with the end of its output."""
    jobs = int(os.environ.get("MAX_JOBS", "0")) or os.cpu_count() or 1
    running: list[tuple[list[str], subprocess.Popen]] = []
    pending = list(commands)
    failure = None
    while pending or running:
        while pending and len(running) < jobs and failure is None:
            print(" ".join(pending[0]), flush=True)
            process = subprocess.Popen(pending[0], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
            running.append((pending.pop(0), process))
        command, process = running.pop(0)
        output = process.communicate()[0]
        print(output, end="", flush=True)
        if process.returncode and failure is None:
            failure = f"{Path(command[0]).name} failed on {command[-3]}: {output.strip()[-2000:]}"
            pending.clear()
    if failure is not None:
        raise RuntimeError(failure)
