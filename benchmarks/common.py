"""What every benchmark shares: measuring in turns, and stating machine, versions, commit and date with each figure."""

from __future__ import annotations

import ctypes
import gc
import json
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path

import torch

__all__ = [
    "PeakMemory",
    "Timing",
    "available_memory",
    "clock",
    "environment",
    "in_turns",
    "markdown_table",
    "write_results",
]

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Timing:
    """Medians of one contestant.

    Attributes:
        cpu_s: CPU seconds of the process, user and system, all threads; little disturbed by other processes.
        wall_s: seconds on the clock; on GPUs including the wait for the device.
        repeats: how many measurements.
    """

    cpu_s: float
    wall_s: float
    repeats: int


def clock(run: Callable[[], object], device: torch.device) -> tuple[float, float]:
    """CPU seconds of this process and seconds on the clock that ``run`` takes, the device's work included."""
    _synchronize(device)
    cpu, wall = time.process_time(), time.perf_counter()
    run()
    _synchronize(device)
    return time.process_time() - cpu, time.perf_counter() - wall


def in_turns(
    contestants: Mapping[str, Callable[[], tuple[float, float]]], repeats: int, *, warmup: int = 1
) -> dict[str, Timing]:
    """Measure the contestants A B A B ..., so that whatever disturbs the machine disturbs all of them alike.

    Args:
        contestants: each runs once and returns its (CPU seconds, wall seconds); see :func:`clock`.
        repeats: how many measurements of each the medians are of.
        warmup: how many more come first and do not count.
    """
    samples: dict[str, list[tuple[float, float]]] = {name: [] for name in contestants}
    for turn in range(-warmup, repeats):
        for name, measure in contestants.items():
            sample = measure()
            if turn >= 0:
                samples[name].append(sample)
    return {
        name: Timing(*(statistics.median(column) for column in zip(*rows, strict=True)), repeats=len(rows))
        for name, rows in samples.items()
    }


class PeakMemory:
    """MiB needed at the peak beyond what the process, or the GPU, held when this object was made. CPUs need Linux."""

    def __init__(self, device: torch.device):
        self.device = device
        self.base = self._now()

    def of(self, run: Callable[[], object]) -> float:
        """Run something and return its peak."""
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
            run()
            return (torch.cuda.max_memory_allocated(self.device) - self.base) / 2**20
        _return_freed_memory()
        Path("/proc/self/clear_refs").write_text("5")  # resets the peak
        run()
        return (_memory_kib("VmHWM") - self.base) / 2**10

    def _now(self) -> int:
        if self.device.type == "cuda":
            return torch.cuda.memory_allocated(self.device)
        _return_freed_memory()
        return _memory_kib("VmRSS")


def available_memory() -> int:
    """Bytes that a process could still get without swapping. Needs Linux."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))


def _return_freed_memory() -> None:
    """To the system: what malloc keeps would count as in use."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)


def environment(device: torch.device, packages: Sequence[str] = ("torch",)) -> dict[str, object]:
    """Machine, versions, commit and date; nothing that identifies a host or a user."""
    return {
        "cpu": f"{_cpu_model()}, {os.cpu_count()} cores, {torch.backends.cpu.get_cpu_capability()}",
        "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        "load": round(os.getloadavg()[0], 1),
        "python": platform.python_version(),
        **{name: _version(name) for name in packages},
        "commit": _commit(),
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d"),
    }


def write_results(
    name: str,
    title: str,
    env: Mapping[str, object],
    rows: Sequence[Mapping[str, object]],
    more: Mapping[str, Sequence[Mapping[str, object]]] | None = None,
) -> None:
    """Write ``results/<name>.json`` and ``.md`` and print the latter. ``more``: further tables by their titles."""
    RESULTS.mkdir(exist_ok=True)
    more = more or {}
    data = {"title": title, "environment": dict(env), "rows": [dict(row) for row in rows]}
    data |= {heading: [dict(row) for row in table] for heading, table in more.items()}
    (RESULTS / f"{name}.json").write_text(json.dumps(data, indent=1) + "\n")
    facts = "\n".join(f"- {key}: {value}" for key, value in env.items() if value is not None)
    tables = "".join(f"## {heading}\n\n{markdown_table(table)}\n\n" for heading, table in more.items())
    text = f"# {title}\n\n{markdown_table(rows)}\n\n{tables}{facts}\n"
    (RESULTS / f"{name}.md").write_text(text)
    print(text)


def markdown_table(rows: Sequence[Mapping[str, object]]) -> str:
    """Rows with the same keys as a Markdown table."""
    header = list(rows[0])
    lines = [header, ["---"] * len(header), *([_cell(row[key]) for key in header] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"
    return "" if value is None else str(value)


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _memory_kib(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field))


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _commit() -> str | None:
    def git(*arguments: str) -> str:
        command = ["git", "-C", str(Path(__file__).parent), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no", "--", ":/detrex", ":/detrex_ops", ":/projects")
        return git("rev-parse", "--short", "HEAD") + (" + changes" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return None
