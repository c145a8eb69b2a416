"""Numbers of a training step, collected with few waits for the device."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from detectron2.utils import comm
from detectron2.utils.events import EventStorage
from torch import Tensor

__all__ = ["MetricWindow", "PhaseTimer", "to_host"]


def to_host(scalars: Mapping[str, Tensor]) -> dict[str, float]:
    """Values of named scalar tensors, copied to the host at once; waits for the device a single time."""
    values = torch.stack([value.detach().float() for value in scalars.values()]).tolist()
    return dict(zip(scalars, values, strict=True))


class PhaseTimer:
    """Seconds of named phases of a step: wall time on the CPU, time on the stream (by events) on a GPU."""

    def __init__(self, device: torch.device):
        self._cuda = device.type == "cuda"
        self._marks: list[tuple[str, object, object]] = []

    @contextmanager
    def phase(self, name: str, *, host: bool = False) -> Iterator[None]:
        """Time the body as ``name``; ``host`` for work that no stream sees."""
        start = time.perf_counter() if host else self._now()
        yield
        self._marks.append((name, start, time.perf_counter() if host else self._now()))

    def _now(self) -> object:
        if not self._cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def read(self) -> dict[str, float]:
        """Seconds by phase, of all times that it was entered; waits for the device on a GPU."""
        sums: dict[str, float] = {}
        for name, start, end in self._marks:
            sums[name] = sums.get(name, 0.0) + _seconds(start, end)
        return sums


def _seconds(start: object, end: object) -> float:
    if isinstance(start, float):
        return end - start
    end.synchronize()
    return start.elapsed_time(end) / 1e3


class MetricWindow:
    """Metrics of the last iterations, kept on each process and written together, one exchange for all of them."""

    def __init__(self) -> None:
        self._rows: list[tuple[int, dict[str, float], PhaseTimer]] = []

    def add(self, iteration: int, values: dict[str, float], timer: PhaseTimer) -> None:
        """Remember one iteration: its numbers and its phases."""
        self._rows.append((iteration, values, timer))

    def flush(self, storage: EventStorage) -> None:
        """Write everything to the first process's storage; every process must call it at the same iteration.

        Values are averaged over processes; times are those of the slowest process.
        """
        rows = [(iteration, values, timer.read()) for iteration, values, timer in self._rows]
        self._rows.clear()
        gathered = comm.gather(rows)
        if not comm.is_main_process():
            return
        for same_iteration in zip(*gathered, strict=True):
            iteration = same_iteration[0][0]
            values, times = [row[1] for row in same_iteration], [row[2] for row in same_iteration]
            for name in values[0]:
                mean = sum(row[name] for row in values) / len(values)
                if math.isfinite(mean):  # with loss scaling an overflowing gradient is skipped, not an error
                    storage.put_scalar(name, mean, cur_iter=iteration)
            for name in times[0]:
                storage.put_scalar(name, max(row[name] for row in times), cur_iter=iteration)
