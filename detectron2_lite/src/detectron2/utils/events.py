"""Metrics during training: :class:`EventStorage` collects them, writers print or save them."""

from __future__ import annotations

import datetime
import json
import logging
import math
import os
import time
from collections import defaultdict
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from detectron2.utils.file_io import PathManager

from ._event_storage import _CURRENT_STORAGE_STACK, EventStorage, get_event_storage, has_event_storage  # noqa: F401

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


class EventWriter:
    """Takes events from the current :class:`EventStorage` and does something with them."""

    def write(self) -> None:
        """Handle what is new in the storage."""
        raise NotImplementedError

    def close(self) -> None:
        """Release resources."""


class JSONWriter(EventWriter):
    """Appends scalars to a file of one JSON object per line.

    A line holds the scalars of one iteration under sorted keys, and ``"iteration"``. A scalar is written if it is newer
    than the last write. A value that is not finite is ``null``, so that every line is JSON.

    Args:
        json_file: the file; continued if it exists.
        window_size: number of iterations for the median of scalars to be smoothed.
    """

    def __init__(self, json_file: str, window_size: int = 20) -> None:
        self._file_handle = PathManager.open(json_file, "a")
        self._window_size = window_size
        self._last_write = -1

    def write(self) -> None:
        lines: dict[int, dict[str, float | None]] = defaultdict(dict)
        for name, (value, iteration) in get_event_storage().latest_with_smoothing_hint(self._window_size).items():
            if iteration > self._last_write:
                lines[iteration][name] = value if math.isfinite(value) else None
        for iteration in sorted(lines):
            record = {**lines[iteration], "iteration": iteration}
            self._file_handle.write(json.dumps(record, sort_keys=True, allow_nan=False) + "\n")
            self._last_write = iteration
        self._file_handle.flush()
        if hasattr(self._file_handle, "fileno"):  # remote files have none
            os.fsync(self._file_handle.fileno())

    def close(self) -> None:
        self._file_handle.close()


class TensorboardXWriter(EventWriter):
    """Writes scalars, images and histograms for TensorBoard. The event file is created by the first write.

    Args:
        log_dir: the folder of the event file.
        window_size: number of iterations for the median of scalars to be smoothed.
        kwargs: further arguments of ``torch.utils.tensorboard.SummaryWriter``.
    """

    def __init__(self, log_dir: str, window_size: int = 20, **kwargs: Any) -> None:
        self._window_size = window_size
        self._writer_args = {"log_dir": log_dir, **kwargs}
        self._last_write = -1

    @cached_property
    def _writer(self) -> SummaryWriter:
        from torch.utils.tensorboard import SummaryWriter

        return SummaryWriter(**self._writer_args)

    def write(self) -> None:
        storage = get_event_storage()
        newest = self._last_write
        for name, (value, iteration) in storage.latest_with_smoothing_hint(self._window_size).items():
            if iteration > self._last_write:
                self._writer.add_scalar(name, value, iteration)
                newest = max(newest, iteration)
        self._last_write = newest
        # Images and histograms are only for this writer, which therefore discards them.
        for name, image, iteration in storage._vis_data:
            self._writer.add_image(name, image, iteration)
        storage.clear_images()
        for histogram in storage._histograms:
            self._writer.add_histogram_raw(**histogram)
        storage.clear_histograms()

    def close(self) -> None:
        if "_writer" in vars(self):
            self._writer.close()


class CommonMetricPrinter(EventWriter):
    """Logs one line with the losses, ``[metric]`` scalars, times, learning rate and memory of an iteration.

    Nothing is logged at ``max_iter``, that is, after training.

    Args:
        max_iter: the last iteration; without it there is no ETA.
        window_size: number of iterations for the medians.
    """

    def __init__(self, max_iter: int | None = None, window_size: int = 20) -> None:
        self.logger = logging.getLogger("detectron2.utils.events")
        self._max_iter = max_iter
        self._window_size = window_size
        self._last_write: tuple[int, float] | None = None

    def _eta(self, storage: EventStorage) -> str:
        if self._max_iter is None:
            return ""
        remaining = self._max_iter - storage.iter - 1
        if "time" in storage.histories():
            seconds = storage.history("time").median(1000) * remaining
            storage.put_scalar("eta_seconds", seconds, smoothing_hint=False)
        else:
            # Nobody times the iterations: go by the time between two calls.
            previous, self._last_write = self._last_write, (storage.iter, time.perf_counter())
            if previous is None or previous[0] == storage.iter:
                return ""
            seconds = (time.perf_counter() - previous[1]) / (storage.iter - previous[0]) * remaining
        return f"eta: {datetime.timedelta(seconds=int(seconds))}  "

    def write(self) -> None:
        storage = get_event_storage()
        if storage.iter == self._max_iter:
            return
        eta = self._eta(storage)
        # Scripts parse this line, its irregular spaces included.
        self.logger.info(
            f" {eta}iter: {storage.iter}  {self._medians(storage, 'loss')}  {self._medians(storage, '[metric]')}  "
            f"{self._times(storage)} lr: {self._learning_rate(storage)}  {_max_memory()}"
        )

    def _medians(self, storage: EventStorage, marker: str) -> str:
        return "  ".join(
            f"{name}: {history.median(storage.count_samples(name, self._window_size)):.4g}"
            for name, history in storage.histories().items()
            if marker in name
        )

    def _times(self, storage: EventStorage) -> str:
        # Absent in the first iterations, and where no trainer or timer puts them.
        text, histories = "", storage.histories()
        if "time" in histories:
            times = storage.history("time")
            text += f"time: {times.global_avg():.4f}  last_time: {times.latest():.4f}  "
        if "data_time" in histories:
            times, count = storage.history("data_time"), storage.count_samples("data_time", self._window_size)
            text += f"data_time: {times.avg(count):.4f}  last_data_time: {times.latest():.4f}  "
        return text

    def _learning_rate(self, storage: EventStorage) -> str:
        return f"{storage.history('lr').latest():.5g}" if "lr" in storage.histories() else "N/A"


def _max_memory() -> str:
    if not torch.cuda.is_available():
        return ""
    return f"max_mem: {torch.cuda.max_memory_allocated() / 2**20:.0f}M"
