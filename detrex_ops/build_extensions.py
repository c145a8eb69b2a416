"""How setup.py builds the extensions. Used at build time only; imports neither torch nor this package.

The extensions hold no Python code and need of torch only headers and libtorch_cpu, so it is found, not imported: in the
running interpreter, or, where pip isolates the build, in the environment that it installs into.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import importlib.util
import os
import platform
import re
import shlex
import shutil
import subprocess
import sysconfig
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from setuptools import Extension
from setuptools.command.build_ext import build_ext

SOURCES = Path("detrex_ops/csrc")
STABLE_ABI = (2, 10)
ARCHITECTURES = ("7.5", "8.0", "8.6", "8.9", "9.0", "10.0", "12.0")
PTX_ARCHITECTURES = (
    75,
    80,
    90,
)  # what the kernels distinguish: later GPUs are compiled from the intermediate code of 90
NO_GPU = (
    "this machine has no NVIDIA GPU; to compile for other machines, install again with DETREX_OPS_BUILD=cuda "
    'or DETREX_OPS_CUDA_ARCH="8.0;9.0"'
)


@dataclass(frozen=True)
class Torch:
    """An installed torch: its package folder and version (major, minor)."""

    root: Path
    version: tuple[int, int]

    @property
    def stable(self) -> bool:
        """Whether the extensions can be built on the stable ABI."""
        return self.version >= STABLE_ABI


@dataclass(frozen=True)
class Step:
    """One call of a compiler or linker: what it makes, from what, and its command without the output."""

    output: Path
    title: str
    command: tuple[str, ...]
    inputs: tuple[Path, ...] = ()

    @property
    def key_file(self) -> Path:
        """The file beside the output that holds the key with which it was made."""
        return self.output.with_suffix(".key")

    def key(self, torch: Torch) -> str:
        """Changes with the command, the compiler, torch and every input."""
        digest = hashlib.sha256(repr((self.command, compiler_version(self.command[0]))).encode())
        for path in (*self.inputs, torch.root / "version.py"):
            digest.update(path.read_bytes())
        return digest.hexdigest()

    def is_current(self, key: str) -> bool:
        """Whether the output of this very step is there."""
        return self.output.exists() and self.key_file.exists() and self.key_file.read_text() == key


@functools.cache
def compiler_version(compiler: str) -> str:
    """What ``--version`` prints."""
    try:
        return subprocess.run([compiler, "--version"], capture_output=True, text=True, check=False).stdout
    except OSError as error:
        return str(error)


def wanted() -> str:
    """The value of DETREX_OPS_BUILD; FORCE_CUDA=1, as other packages have it, means cuda."""
    choice = os.environ.get("DETREX_OPS_BUILD", "") or "auto"
    if choice not in ("auto", "cpu", "cuda", "off"):
        raise SystemExit(f"DETREX_OPS_BUILD={choice}: expected auto, cpu, cuda or off")
    return "cuda" if choice == "auto" and os.environ.get("FORCE_CUDA", "0") not in ("", "0") else choice


def gpu_architectures() -> list[str]:
    """ "80", "90", ...: compute capabilities of this machine's GPUs, asked of the driver itself."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return []
    count, found = ctypes.c_int(), set()
    if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return []
    for device in range(count.value):
        capability = []
        for attribute in (75, 76):  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, _MINOR
            number = ctypes.c_int()
            if driver.cuDeviceGetAttribute(ctypes.byref(number), attribute, device) != 0:
                return []
            capability.append(str(number.value))
        found.add("".join(capability))
    return sorted(found, key=int)


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
        compiler = tuple(shlex.split(os.environ.get("CXX", ""))) or tuple(
            path for path in [shutil.which("g++") or shutil.which("clang++")] if path
        )
        if not compiler:
            raise RuntimeError("there is no C++ compiler (looked for $CXX, g++, clang++)")
        # An editable installation builds in a folder that is deleted; objects are kept for the next one.
        folder = Path("build/editable" if getattr(self, "editable_mode", False) else self.build_temp) / name
        folder.mkdir(parents=True, exist_ok=True)
        libraries = [f"-L{torch.root / 'lib'}", "-ltorch_cpu", "-lc10"]
        abi = (
            f"on the stable ABI of torch {STABLE_ABI[0]}.{STABLE_ABI[1]}"
            if torch.stable
            else f"for torch {torch.version}"
        )
        if name == "cpu":
            steps, detail = cpu_steps(compiler, torch, folder), f"built {abi} with {Path(compiler[-1]).name}"
        else:
            steps, libs, detail = cuda_steps(compiler, torch, folder)
            libraries += libs
            detail = f"built {abi} {detail}"
        start = time.perf_counter()
        compiled = run_steps(steps, torch)
        shared = ["-undefined", "dynamic_lookup"] if platform.system() == "Darwin" else ["-Wl,--as-needed"]
        objects = [str(step.output) for step in steps]
        link = [*compiler, "-shared", *shared, *flags_of("LDFLAGS"), *objects, *libraries]
        run_steps([Step(target, f"linking {target.name}", tuple(link))], None)
        seconds = f"{time.perf_counter() - start:.0f} s"
        print(f"detrex_ops: {name}: compiled {compiled} of {len(steps)} files, the others are current; {seconds}")
        return detail


def flags_of(variable: str) -> list[str]:
    """Further flags from the environment, which come after ours and so win."""
    return shlex.split(os.environ.get(variable, ""))


def sources_of(part: str) -> tuple[Path, ...]:
    """All files that the objects of a part are compiled from, but for torch's and the system's headers."""
    return tuple(sorted(path for folder in (SOURCES, SOURCES / part) for path in folder.iterdir() if path.is_file()))


def compile_step(command: Sequence[str], source: Path, part: str, folder: Path) -> Step:
    """The compilation of one file of a part."""
    output = folder / f"{source.stem}.o"
    return Step(output, f"compiling {source.name}", (*command, "-c", str(source)), sources_of(part))


def cpu_steps(compiler: Sequence[str], torch: Torch, folder: Path) -> list[Step]:
    """One compilation for each file; the kernels choose their instruction sets themselves."""
    flags = ["-O3", "-std=c++17", "-fPIC", "-fvisibility=hidden", "-ffp-contract=fast", *flags_of("CXXFLAGS")]
    if "clang" not in Path(compiler[-1]).name and platform.system() != "Darwin":
        flags.append("-Wno-psabi")
    kernels = sorted((SOURCES / "cpu").glob("*.cpp"))
    steps = [compile_step([*compiler, *flags], path, "cpu", folder) for path in kernels]
    return [*steps, binding_step(compiler, torch, "cpu", folder)]


def cuda_steps(compiler: Sequence[str], torch: Torch, folder: Path) -> tuple[list[Step], list[str], str]:
    """Compilations, libraries to link, and a description.

    Raises:
        RuntimeError: without a usable toolkit, or where nothing asks for CUDA and there is no GPU.
    """
    if wanted() == "auto" and not os.environ.get("DETREX_OPS_CUDA_ARCH") and not gpu_architectures():
        raise RuntimeError(NO_GPU)
    found = find_cuda()
    if found is None:
        raise RuntimeError(
            "there is no CUDA toolkit (looked for nvcc in $CUDA_HOME, on the path, in pip's nvidia packages)"
        )
    nvcc, root = found
    chosen = architectures(nvcc)
    flags = ["-std=c++17", "-O3", "--threads", "0", "-Xcompiler", "-fPIC,-fvisibility=hidden", "-ccbin", compiler[-1]]
    flags += gencode_flags(chosen)
    kernels = compile_step([str(nvcc), *flags], SOURCES / "cuda/launch.cu", "cuda", folder)
    # The runtime is linked in, so that the file does not depend on the CUDA version that torch came with.
    folders = [f"-L{root / name}" for name in ("lib64", "lib", "targets/x86_64-linux/lib") if (root / name).exists()]
    libraries = [*folders, "-lcudart_static", "-lpthread", "-ldl", "-lrt"]
    detail = f"with {nvcc} ({root}) for sm_{', sm_'.join(chosen)}"
    return [kernels, binding_step(compiler, torch, "cuda", folder)], libraries, detail


def architectures(nvcc: Path) -> list[str]:
    """ "80", "90", ...: DETREX_OPS_CUDA_ARCH, this machine's GPUs, or all of ARCHITECTURES that this nvcc knows."""
    chosen = os.environ.get("DETREX_OPS_CUDA_ARCH", "")
    if chosen not in ("", "all"):
        return sorted((arch.strip().replace(".", "") for arch in chosen.split(";")), key=int)
    if not chosen and (present := gpu_architectures()):
        return present
    known = subprocess.run([nvcc, "--list-gpu-arch"], capture_output=True, text=True, check=False).stdout
    wanted_ones = [arch.replace(".", "") for arch in ARCHITECTURES]
    return [arch for arch in wanted_ones if f"compute_{arch}" in known.split()] or ["80"]


def gencode_flags(chosen: Sequence[str]) -> list[str]:
    """Machine code for each architecture, from as few kinds of intermediate code as the kernels distinguish.

    The first of nvcc's two passes is the longer one. The last kind goes into the file for GPUs that come later.
    """
    kinds = [max((kind for kind in PTX_ARCHITECTURES if kind <= int(arch)), default=int(arch)) for arch in chosen]
    flags = [f"-gencode=arch=compute_{kind},code=sm_{arch}" for kind, arch in zip(kinds, chosen, strict=True)]
    return [*flags, f"-gencode=arch=compute_{kinds[-1]},code=compute_{kinds[-1]}"]


def binding_step(compiler: Sequence[str], torch: Torch, part: str, folder: Path) -> Step:
    """The file that registers a part's operators, for the ABI that this torch offers."""
    abi = "stable" if torch.stable else "aten"
    flags = ["-O2", "-std=c++17", "-fPIC", "-fvisibility=hidden", *flags_of("CXXFLAGS"), *torch_flags(torch)]
    return compile_step([*compiler, *flags], SOURCES / f"binding_{part}_{abi}.cpp", part, folder)


def torch_flags(torch: Torch) -> list[str]:
    """Include paths and the macros that select the ABI."""
    include = torch.root / "include"
    flags = [f"-I{include}", f"-I{include / 'torch/csrc/api/include'}"]
    if torch.stable:
        return [*flags, f"-DTORCH_TARGET_VERSION=0x{STABLE_ABI[0]:02x}{STABLE_ABI[1]:02x}000000000000"]
    # The compiler's own default for the C++11 ABI of libstdc++ may differ from torch's.
    raises = b"torchCheckFailEPKcS2_jRKNSt7__cxx11"
    return [*flags, f"-D_GLIBCXX_USE_CXX11_ABI={int(raises in (torch.root / 'lib/libc10.so').read_bytes())}"]


def run_steps(steps: Sequence[Step], torch: Torch | None) -> int:
    """Run what is not current, up to MAX_JOBS at a time, and count it; without a torch nothing counts as current.

    Raises:
        RuntimeError: a step failed; the message names it and ends with its last output.
    """
    jobs = int(os.environ.get("MAX_JOBS", "0")) or os.cpu_count() or 1
    keys = {step.output: step.key(torch) if torch else "" for step in steps}
    pending = [step for step in steps if torch is None or not step.is_current(keys[step.output])]
    count, running, failure = len(pending), [], None
    while pending or running:
        while pending and len(running) < jobs and failure is None:
            step = pending.pop(0)
            step.key_file.unlink(missing_ok=True)
            command = [*step.command, "-o", str(step.output)]
            print(shlex.join(command), flush=True)
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
            running.append((step, process))
        step, process = running.pop(0)
        output = process.communicate()[0]
        print(output, end="", flush=True)
        if process.returncode == 0 and torch is not None:
            step.key_file.write_text(keys[step.output])
        elif process.returncode and failure is None:
            failure = f"{step.title} failed ({Path(step.command[0]).name}): {output.strip()[-2000:]}"
            pending.clear()
    if failure is not None:
        raise RuntimeError(failure)
    return count
