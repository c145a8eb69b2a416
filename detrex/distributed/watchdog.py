"""A process that hangs is named and ends its job, instead of having all others wait for it."""

from __future__ import annotations

import faulthandler
import os
import sys
import threading
import time
from datetime import timedelta

import torch.distributed as dist
from detectron2.engine import HookBase
from detectron2.utils import comm

from .launch import end_process, is_part_of_job

__all__ = ["StallWatch"]

_PHASES = ("before its batch", "in the forward pass", "after the forward pass", "after the step")
_MAX_INTERVAL = 5.0  # seconds
_ANSWER = 10.0  # seconds for the store to answer
_FIRST = 15.0  # seconds that a process which did go on leaves to the one that did not


class StallWatch(HookBase):
    """Ends a job of several processes whose steps stand still for ``timeout`` seconds.

    A thread of each process tells the others, through the store at which they met, how far it is: before the batch,
    in the forward pass, after it, after the step. When a process has not gone on for ``timeout``, those that are the
    furthest behind print the stacks of their threads and end with ``EXIT_MACHINE``; the others follow, naming them, in
    case these are frozen or unreachable. In a job of one process it does nothing.
    """

    def __init__(self, timeout: float):
        self.timeout = timeout
        self._interval = min(_MAX_INTERVAL, timeout / 8)
        self._place, self._since = (0, 0), time.monotonic()
        self._told: tuple[int, int] | None = None

    def before_train(self) -> None:
        if comm.get_world_size() == 1 or not is_part_of_job():
            return
        self._rank, self._world = comm.get_rank(), comm.get_world_size()
        self._store = dist.PrefixStore(
            "detrex/watch",
            dist.TCPStore(
                os.environ["MASTER_ADDR"],
                int(os.environ["MASTER_PORT"]),
                is_master=False,
                wait_for_workers=False,
                timeout=timedelta(seconds=_ANSWER),
            ),
        )
        self._go_on(self.trainer.start_iter, 0)
        model = getattr(self.trainer.model, "module", self.trainer.model)  # which evaluations call too
        # Functions, for a copy of the model shares them. They stay: the process ends with the job.
        model.register_forward_pre_hook(lambda *_: self._go_on(self.trainer.iter, 1))
        model.register_forward_hook(lambda *_: self._go_on(self.trainer.iter, 2))
        threading.Thread(target=self._watch, name="stall-watch", daemon=True).start()

    def before_step(self) -> None:
        self._go_on(self.trainer.iter, 0)

    def after_step(self) -> None:
        self._go_on(self.trainer.iter, 3)

    def _go_on(self, iteration: int, phase: int) -> None:
        self._place, self._since = (iteration, phase), time.monotonic()

    def _watch(self) -> None:
        while True:
            time.sleep(self._interval)
            try:
                self._tell()
                if time.monotonic() - self._since > self.timeout:
                    self._judge()
            except RuntimeError as e:
                self._store_is_gone(e)

    def _tell(self) -> None:
        place = self._place
        if place != self._told:
            self._store.set(f"{self._rank}", f"{place[0]} {place[1]}")
            self._told = place

    def _judge(self) -> None:
        place = self._place
        time.sleep(2 * self._interval)  # by then all have told where they stand
        if place != self._place:
            return
        places = {
            rank: tuple(map(int, self._store.get(f"{rank}").decode().split()))
            for rank in range(self._world)
            if self._store.check([f"{rank}"])
        }
        behind = [rank for rank in range(self._world) if places.get(rank, (-1, 0)) == min(places.values())]
        behind = [rank for rank in range(self._world) if rank not in places] or behind
        if self._rank in behind:
            faulthandler.dump_traceback(file=sys.__stderr__, all_threads=True)
            alike = "" if len(behind) == 1 else f". So did the processes {[r for r in behind if r != self._rank]}"
            end_process(
                f"process {self._rank} of {self._world} hangs: nothing for {self.timeout:.0f} s (train.dist_timeout) "
                f"in iteration {place[0]}, {_PHASES[place[1]]}; the stacks of its threads are above{alike}"
            )
        time.sleep(min(_FIRST, self.timeout))
        end_process(
            f"process {self._rank} of {self._world} waited {self.timeout:.0f} s (train.dist_timeout) in iteration "
            f"{place[0]}, {_PHASES[place[1]]}, for the processes {behind}, which hang or are out of reach"
        )

    def _store_is_gone(self, error: RuntimeError) -> None:
        """The store is in process 0, or in torchrun."""
        if time.monotonic() - self._since > self.timeout:
            end_process(
                f"process {self._rank} of {self._world} waited {self.timeout:.0f} s (train.dist_timeout), and process "
                f"0 or its launcher does not answer: {str(error).splitlines()[0]}"
            )
