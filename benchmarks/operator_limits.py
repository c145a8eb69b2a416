"""What the machine can do at best, measured, and how long the operator's unavoidable work takes at those rates.

On CPUs a C++ program of this folder measures one core's loads from each cache and from memory, and its multiply-adds;
it needs a compiler. On GPUs sums over a resident and a large tensor, and a matrix product, are measured through torch.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.operator_problem import Work

__all__ = ["Limits", "limit_rows", "measured_limits"]

SOURCE = Path(__file__).with_name("cpu_limits.cpp")
# Bytes that fit into each on every common processor.
WORKING_SETS = {"L1": 24 * 2**10, "L2": 512 * 2**10, "L3": 8 * 2**20, "memory": 512 * 2**20}


@dataclass(frozen=True)
class Limits:
    """GB/s that loads reach from each kind of memory, the nearest first, and GFLOP/s in float32."""

    loads: Mapping[str, float]
    gflops: float

    def described(self) -> dict[str, str]:
        """Label -> figure with its unit."""
        found = {f"loads from {name}": f"{rate:.0f} GB/s" for name, rate in self.loads.items()}
        return found | {"float32 arithmetic": f"{self.gflops:.0f} GFLOP/s"}


def measured_limits(device: torch.device) -> Limits:
    """Of one core, or of the GPU.

    Raises:
        RuntimeError: on CPUs without a C++ compiler.
    """
    return _cuda_limits(device) if device.type == "cuda" else _cpu_limits()


def _floors(work: Work, limits: Limits) -> dict[str, float]:
    """Milliseconds for each kind of unavoidable work, if nothing else limited it and all of it overlapped.

    Rows of corners come at best from the nearest memory; what is read once comes from the farthest.
    """
    names = list(limits.loads)
    return {
        f"corners from {names[0]}": work.corner_bytes / limits.loads[names[0]] / 1e6,
        f"distinct bytes from {names[-1]}": work.distinct_bytes / limits.loads[names[-1]] / 1e6,
        "arithmetic": work.flop / limits.gflops / 1e6,
    }


def _cpu_limits() -> Limits:
    compiler = os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        raise RuntimeError("--limits on a CPU needs a C++ compiler: $CXX, g++ or clang++")
    with tempfile.TemporaryDirectory() as folder:
        program = f"{folder}/cpu_limits"
        flags = ["-O3", "-march=native", "-ffp-contract=fast", "-std=c++17"]
        subprocess.run([compiler, *flags, str(SOURCE), "-o", program], check=True)
        sizes = [str(size) for size in WORKING_SETS.values()]
        output = subprocess.run([program, *sizes], check=True, capture_output=True, text=True).stdout
    *loads, gflops = (float(line) for line in output.split())
    return Limits(dict(zip(WORKING_SETS, loads, strict=True)), gflops)


def _cuda_limits(device: torch.device) -> Limits:
    resident = torch.zeros(4 * 2**20, device=device)
    large = torch.zeros(2**30, device=device)
    rounds = resident.expand(64, -1)  # 16 MiB again and again
    matrix = torch.randn(8192, 8192, device=device)
    return Limits(
        {
            "L2": 4 * rounds.numel() / _best(rounds.sum, device) / 1e9,
            "memory": 4 * large.numel() / _best(large.sum, device) / 1e9,
        },
        2 * 8192**3 / _best(lambda: matrix @ matrix, device) / 1e9,
    )


def _best(run: Callable[[], object], device: torch.device) -> float:
    times: list[float] = []
    for _ in range(10):
        torch.cuda.synchronize(device)
        begin = time.perf_counter()
        run()
        torch.cuda.synchronize(device)
        times.append(time.perf_counter() - begin)
    return min(times)


def limit_rows(
    limits: Limits, works: Mapping[tuple[str, str], Work], milliseconds: Mapping[tuple[str, str], float]
) -> Sequence[dict[str, object]]:
    """The table "distance to the limits": (size, pass) -> work, floors, measured time and its multiple of the floor."""
    rows = []
    for (size, name), work in works.items():
        times = _floors(work, limits)
        rows.append(
            {
                "size": size,
                "pass": name,
                "GFLOP": work.flop / 1e9,
                "corners, MB": work.corner_bytes / 1e6,
                "distinct, MB": work.distinct_bytes / 1e6,
                **{f"{label}, ms": value for label, value in times.items()},
                "measured, ms": milliseconds[size, name],
                "times the largest": milliseconds[size, name] / max(times.values()),
            }
        )
    return rows
