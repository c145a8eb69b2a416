"""Builds the CPU kernels with AddressSanitizer and UndefinedBehaviorSanitizer and runs tests on them.

    python tests/ops/sanitized.py [--build FOLDER] [arguments of pytest]

Without arguments: the operator's properties and kernel tests. The first finding ends the run. The build is in FOLDER,
``build/sanitized`` of this repository by default, and is kept while no source is newer; the package's own
extension is left alone.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DEFAULT_TESTS = ["tests/ops/test_properties.py", "tests/ops/test_cpu_kernel.py", "tests/ops/test_addresses.py"]
# -O0: compiling takes most of the time.
FLAGS = ["-O0", "-g1", "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined", "-fno-omit-frame-pointer"]


def runtime() -> list[str]:
    """Libraries of the compiler that have to be loaded before Python; none where it has no AddressSanitizer."""
    compiler = os.environ.get("CXX") or shutil.which("g++")
    if not compiler or "clang" in Path(compiler).name:  # Clang links its own another way
        return []
    libraries = []
    for name in ("libasan.so", "libstdc++.so.6"):  # the second, so that the first finds what C++ throws with
        found = subprocess.run([compiler, f"-print-file-name={name}"], capture_output=True, text=True, check=False)
        path = Path(found.stdout.strip())
        if not path.is_absolute() or not path.exists():
            return []
        libraries.append(str(path.resolve()))
    return libraries


def build(folder: Path) -> Path:
    """A copy of the packages with sanitized CPU kernels; for ``PYTHONPATH``."""
    library = folder / "lib"
    sources = [*ROOT.glob("detrex_ops/*.py"), *ROOT.glob("detrex_ops/csrc/**/*.*"), Path(__file__)]
    newest = max(path.stat().st_mtime for path in sources)
    if not any(path.stat().st_mtime > newest for path in library.glob("detrex_ops/_cpu*.so")):
        environment = {"CXXFLAGS": " ".join(FLAGS), "LDFLAGS": FLAGS[2], "DETREX_OPS_BUILD": "cpu"}
        command = [sys.executable, "setup.py", "-q", "build", "--build-base", str(folder), "--build-lib", str(library)]
        environment = {**os.environ, **environment}
        result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        if result.returncode:
            raise SystemExit(f"{result.stdout[-4000:]}{result.stderr[-4000:]}")
    return library


def run(folder: Path, arguments: list[str]) -> int:
    """Exit status of pytest, or of the sanitizer that stopped it."""
    libraries = runtime()
    if not libraries:
        raise SystemExit("this needs g++ with libasan (Debian: libasan8, which g++ brings along)")
    environment = {
        **os.environ,
        "LD_PRELOAD": " ".join(libraries),
        # Python and torch keep memory until the end; torch's own code is not under test
        "ASAN_OPTIONS": "detect_leaks=0:allocator_may_return_null=1:abort_on_error=0",
        "UBSAN_OPTIONS": "print_stacktrace=1",
        "PYTHONPATH": os.pathsep.join([str(build(folder)), *filter(None, [os.environ.get("PYTHONPATH")])]),
        "PYTHONSAFEPATH": "1",  # or the repository's own package would come first
        "DETREX_OPS": "cpu",
        "OMP_NUM_THREADS": "1",
    }
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-s",
        "-p",
        "no:cacheprovider",
        "-p",
        "no:faulthandler",
        "--override-ini",
        "timeout=1800",
    ]
    return subprocess.run([*command, *arguments], cwd=ROOT, env=environment, check=False).returncode


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--build", type=Path, default=ROOT / "build/sanitized", metavar="FOLDER")
    options, arguments = parser.parse_known_args()
    return run(options.build.resolve(), arguments or DEFAULT_TESTS)


if __name__ == "__main__":
    sys.exit(main())
