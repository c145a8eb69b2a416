"""What the machine can do at best: copy bandwidth for working sets of each cache, and arithmetic."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

WORKING_SETS = {"L2": 512 * 2**10, "L3": 8 * 2**20, "memory": 512 * 2**20}


def measured_limits(device: torch.device) -> dict[str, str]:
    """Label -> figure with its unit; the best of several runs."""
    found = {}
    for name, size in WORKING_SETS.items() if device.type == "cpu" else (("memory", 4 * 2**30),):
        source = torch.zeros(size // 8, device=device)
        target = torch.empty_like(source)
        calls = max(1, 2**28 // size)
        seconds = _best(lambda source=source, target=target: target.copy_(source), calls, device)
        found[f"copy within {name}"] = f"{size / seconds / 1e9:.0f} GB/s read and written"
    matrix = torch.randn(1024 if device.type == "cpu" else 8192, 1024, device=device)
    factor = torch.randn(1024, 1024, device=device)
    seconds = _best(lambda: matrix @ factor, 4, device)
    found["float32 matrix product"] = f"{2 * matrix.numel() * 1024 / seconds / 1e9:.0f} GFLOP/s"
    return found


def _best(run: Callable[[], object], calls: int, device: torch.device) -> float:
    times = []
    for _ in range(7):
        _wait(device)
        begin = time.perf_counter()
        for _ in range(calls):
            run()
        _wait(device)
        times.append((time.perf_counter() - begin) / calls)
    return min(times)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
