"""Peak memory of this process, or of its GPU."""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path

import torch

try:
    import resource
except ImportError:  # Windows
    resource = None

__all__ = ["max_rss_mb", "peak_memory", "reset_peak_memory"]


def max_rss_mb() -> float:
    """The most MiB of memory that this process has held."""
    if resource is None:
        return 0.0
    # Kibibytes on Linux, bytes on macOS.
    scale = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / scale


def reset_peak_memory(device: torch.device) -> None:
    """Begin a new peak; on a CPU only Linux can."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        return
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_memory(device: torch.device) -> int:
    """Bytes since :func:`reset_peak_memory`: on a GPU what torch reserved there, on a CPU those of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device)
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 2**10
    return int(max_rss_mb() * 2**20)
