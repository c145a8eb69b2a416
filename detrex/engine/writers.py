"""Writers of metrics: console, ``metrics.json`` and TensorBoard; a resumed run continues where its checkpoint was."""

from __future__ import annotations

import json
import logging
import math
import os
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from detectron2.engine import HookBase
from detectron2.utils import comm
from detectron2.utils.events import CommonMetricPrinter, EventStorage, EventWriter, TensorboardXWriter
from detectron2.utils.events import get_event_storage as storage

from detrex.checkpoint import replace_file
from detrex.solver.lr_schedule import Schedule

__all__ = ["Writers", "restore_metrics", "saved_metrics", "trim_metrics"]

logger = logging.getLogger(__name__)

WINDOW = 20  # iterations whose median is written
_OF_THE_PROCESS = ("time", "eta_seconds")  # a new process measures anew


class MetricsFile(EventWriter):
    """Appends to ``metrics.json``: an object per line, with the scalars of one iteration and ``"iteration"``.

    A value that is not finite is ``null``, so that every line is JSON.

    Args:
        path: of the file. written: the last iteration that it holds already.
    """

    def __init__(self, path: Path, *, written: int = -1):
        self._file = path.open("a")
        self._written = written

    def write(self) -> None:
        rows: dict[int, dict[str, float | None]] = defaultdict(dict)
        for name, (value, iteration) in storage().latest_with_smoothing_hint(WINDOW).items():
            if iteration > self._written:
                rows[iteration][name] = value if math.isfinite(value) else None
        for iteration in sorted(rows):
            self._file.write(json.dumps({**rows[iteration], "iteration": iteration}, sort_keys=True) + "\n")
            self._written = iteration
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()


class TensorBoard(TensorboardXWriter):
    """detectron2's, which here hands over to the disk whatever it was given, so that a killed run has lost nothing.

    Args:
        folder: of the event files. written: the last iteration that they hold already.
    """

    def __init__(self, folder: str, *, written: int = -1):
        super().__init__(folder, window_size=WINDOW, purge_step=written + 1)  # hides what a killed run wrote after it
        self._last_write = written

    def write(self) -> None:
        super().write()
        self._writer.flush()


class Writers(HookBase):
    """Console, ``metrics.json`` and TensorBoard, every ``log_period`` iterations and at the end.

    To be registered in all processes (the first one writes), after all hooks that put metrics.

    Args:
        output_dir: an existing folder. schedule: the run's durations.
    """

    def __init__(self, output_dir: str, schedule: Schedule):
        self._folder, self._schedule = Path(output_dir), schedule
        self._console: list[EventWriter] = []
        self._files: list[EventWriter] = []
        self._written: int | None = None

    def before_train(self) -> None:
        last = self.trainer.start_iter - 1
        if self._written is None:
            self._written = last
        if not comm.is_main_process():
            return
        trim_metrics(self._folder / "metrics.json", self._written)
        self._console = [CommonMetricPrinter(self._schedule.max_iter)]
        self._files = [
            MetricsFile(self._folder / "metrics.json", written=self._written),
            TensorBoard(str(self._folder), written=self._written),
        ]
        if self._written < last and self._is_due(last):  # the checkpoint is from between the step and its writing
            self._write(last)

    def after_step(self) -> None:
        if self._is_due(self.trainer.iter):
            self._write(self.trainer.iter)

    def after_train(self) -> None:
        for writer in self._files:  # the console has had its line; upstream's fails if asked twice in an iteration
            writer.write()
            writer.close()

    def _is_due(self, iteration: int) -> bool:
        return (iteration + 1) % self._schedule.log_period == 0 or iteration + 1 == self._schedule.max_iter

    def _write(self, iteration: int) -> None:
        self.trainer.storage.iter = iteration
        for writer in self._console + self._files:
            writer.write()
        self._written = iteration

    def state_dict(self) -> dict[str, Any]:
        return {"written": self._written}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._written = state["written"]


def trim_metrics(path: Path, written: int) -> None:
    """Drop from ``metrics.json`` what a run recorded after iteration ``written``, for it will do so again.

    Lines that are no records (cut off by a crash, or damaged) are dropped too, with a warning.
    """
    if not path.is_file():
        return
    kept = []
    for number, line in enumerate(path.read_bytes().splitlines(keepends=True), 1):
        try:
            if json.loads(line)["iteration"] <= written:
                kept.append(line.rstrip() + b"\n")
        except (ValueError, KeyError, TypeError, RecursionError):  # no UTF-8 is a ValueError
            logger.warning("%s: dropped line %d, which is not a record: %.80r", path, number, line)
    replace_file(path, lambda f: f.writelines(kept))


def saved_metrics(events: EventStorage) -> dict[str, Any]:
    """What the coming iterations need of the metrics so far: the values of the last ``WINDOW`` iterations, by name."""
    hints = events.smoothing_hints()
    return {
        name: (hints[name], history.values()[-WINDOW:])
        for name, history in events.histories().items()
        if name not in _OF_THE_PROCESS
    }


def restore_metrics(events: EventStorage, saved: Mapping[str, Any]) -> None:
    """Inverse of :func:`saved_metrics`."""
    for name, (hint, values) in saved.items():
        for value, iteration in values:
            events.put_scalar(name, value, smoothing_hint=hint, cur_iter=iteration)
