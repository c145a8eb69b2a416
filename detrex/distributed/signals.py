"""Save and stop when the cluster asks for the machine back."""

from __future__ import annotations

import contextlib
import logging
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.elastic.multiprocessing as elastic
from detectron2.engine import HookBase
from detectron2.utils import comm

from .errors import Preempted

__all__ = ["StopOnSignal", "hand_signals_on", "received_signals"]

SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGUSR1") if hasattr(signal, name))
TORCHS_SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGHUP", "SIGQUIT") if hasattr(signal, name))

logger = logging.getLogger(__name__)

_received: list[str] = []


def received_signals() -> tuple[str, ...]:
    """Names of the signals to stop that this process has had, in order."""
    return tuple(_received)


class StopOnSignal(HookBase):
    """After SIGTERM or SIGUSR1 (SLURM's preemption) in any process, all of them finish the step, save and stop.

    To be registered last, so that what the other hooks do after the step is saved as done. Further signals change
    nothing, for clusters and launchers send several; SIGINT and SIGKILL stop at once.

    Args:
        save: saves the run; called by all processes at the same iteration.
    """

    def __init__(self, save: Callable[[], Any]):
        self._save = save
        self._previous: dict[int, Any] = {}
        self._group: Any = None
        self.received: str | None = None

    def before_train(self) -> None:
        if comm.get_world_size() > 1:
            self._group = dist.new_group(backend="gloo")  # on the host: no device has to be waited for
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.signal(number, self._note) for number in SIGNALS}

    def _note(self, number: int, _: FrameType | None) -> None:
        self.received = signal.Signals(number).name
        _received.append(self.received)

    def after_step(self) -> None:
        iteration, last = self.trainer.iter, self.trainer.max_iter - 1
        if not self._agreed() or iteration >= last:
            return
        self._save()
        if self._group is not None:
            dist.barrier(group=self._group)  # a launcher ends the others once one has left
        message = f"stopped by {self.received or 'a signal to another process'} after iteration {iteration}, saved"
        logger.warning(message)
        raise Preempted(f"{message}. Go on with --resume")

    def _agreed(self) -> bool:
        if self._group is None:
            return self.received is not None
        flag = torch.tensor([self.received is not None], dtype=torch.uint8)
        dist.all_reduce(flag, dist.ReduceOp.MAX, group=self._group)
        return bool(flag)

    def after_train(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}


@contextlib.contextmanager
def hand_signals_on(file: Path) -> Iterator[None]:
    """Have this process, which runs torch's launcher, note the signals to stop on for those that it launches.

    By itself that launcher would end its processes after 30 seconds, whether they have saved or not. Handlers are as
    before afterwards.

    Args:
        file: gets a line with the name of each signal.
    """

    def note(number: int, _: FrameType | None) -> None:
        name = signal.Signals(number).name
        _received.append(name)
        with file.open("a") as lines:
            lines.write(f"{name}\n")

    torchs = elastic.api._terminate_process_handler  # it is installed for four signals when the processes start

    def choose(number: int, frame: FrameType | None) -> None:
        (note if number in SIGNALS else torchs)(number, frame)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (*SIGNALS, *TORCHS_SIGNALS)}
    elastic.api._terminate_process_handler = choose
    try:
        for number in SIGNALS:
            signal.signal(number, choose)
        yield
    finally:
        elastic.api._terminate_process_handler = torchs
        for number, handler in before.items():
            if handler is not None:  # of a library in C
                signal.signal(number, handler)
