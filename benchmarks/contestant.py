"""A contestant in a process of its own: built once, it takes steps when it is asked to."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import torch
from torch import nn

import detrex_ops
from benchmarks.common import PeakMemory, clock
from benchmarks.detectors import Case, build_hugging_face, build_ours, encoder_scores, make_inputs
from detrex.inference.optimizations import keep_freed_memory

__all__ = ["Contestant", "Optimize", "Prepare", "Setup"]

# (contestant's name, model, inputs of ours, inputs of transformers) -> one measured step
Prepare = Callable[[str, nn.Module, list[dict], dict], Callable[[], object]]

# (our model, names of optimizations or None for all) -> our model with them pulled
Optimize = Callable[[nn.Module, Sequence[str] | None], nn.Module]


@dataclass(frozen=True)
class Setup:
    """What both contestants get: device, number of threads (0: torch's default), folder with the weights, precision.

    For ours alone: ``ops`` is the operator's backend; ``optimize`` applies the ``optimizations``, None for all;
    ``keep_freed_memory`` sets up malloc. ``prepare`` makes a step.
    """

    device: str
    threads: int
    weights: str
    bf16: bool
    ops: str
    optimizations: tuple[str, ...] | None
    keep_freed_memory: bool
    prepare: Prepare
    optimize: Optimize


class Contestant:
    """The parent's end. Each method sends one request and waits for its answer."""

    def __init__(self, name: str, setup: Setup):
        # Threads that spin while they wait would count as CPU time.
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        context = multiprocessing.get_context("spawn")
        self.name = name
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(name, setup, theirs), daemon=True)
        self._process.start()
        theirs.close()

    def ask(self, request: str, *arguments: Any) -> Any:
        """Have a method of the worker run.

        Raises:
            RuntimeError: if the worker died.
        """
        self._pipe.send((request, arguments))
        try:
            return self._pipe.recv()
        except (EOFError, ConnectionResetError):
            raise RuntimeError(f"the process of {self.name} died, see its message above") from None

    def stop(self) -> None:
        """End the process, which gives its memory back."""
        self._pipe.close()
        self._process.join()


class _Worker:
    def __init__(self, name: str, setup: Setup):
        self.name, self.setup, self.device = name, setup, torch.device(setup.device)
        if setup.threads:
            torch.set_num_threads(setup.threads)
        if name == "ours":
            os.environ["DETREX_OPS"] = setup.ops
            if setup.keep_freed_memory:
                keep_freed_memory()
            self.model = setup.optimize(build_ours(setup.weights).to(self.device), setup.optimizations)
        else:
            self.model = build_hugging_face(setup.weights).to(self.device)
        self.memory = PeakMemory(self.device)

    def scores(self) -> torch.Tensor:
        """The encoder's scores of the tokens of a small image, which both contestants must agree on."""
        return encoder_scores(self.name, self.model)

    def case(self, case: Case) -> float:
        """Prepare a case, take its first step and return the peak memory of it in MiB."""
        step = self.setup.prepare(self.name, self.model, *make_inputs(case, self.device))

        def run():
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.setup.bf16):
                step()

        self.run = run
        return self.memory.of(run)

    def measure(self) -> tuple[float, float]:
        """Take one step; its CPU seconds and seconds."""
        return clock(self.run, self.device)

    def profile(self) -> str:
        """A table of where the time of one step goes."""
        activities = [torch.profiler.ProfilerActivity.CPU]
        if self.device.type == "cuda":
            activities.append(torch.profiler.ProfilerActivity.CUDA)
        with torch.profiler.profile(activities=activities) as profile:
            self.measure()
        order = "self_device_time_total" if self.device.type == "cuda" else "self_cpu_time_total"
        return profile.key_averages().table(sort_by=order, row_limit=25, max_name_column_width=45)

    def environment(self) -> dict[str, object]:
        """What the figures depend on beside the machine."""
        return {"threads": torch.get_num_threads(), "operator": detrex_ops.backend(self.device)}


def _serve(name: str, setup: Setup, pipe: Connection) -> None:
    worker = _Worker(name, setup)
    while True:
        try:
            request, arguments = pipe.recv()
        except EOFError:
            return
        pipe.send(getattr(worker, request)(*arguments))
