"""A step of the largest size before the first one: whether the memory suffices, and how much it takes."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from detrex.data.random_state import random_state, set_random_state

from .faults import explain
from .gradients import accumulate_gradients, split_batch
from .memory import peak_memory, reset_peak_memory
from .metrics import PhaseTimer

__all__ = ["dry_run", "report_dry_run"]

logger = logging.getLogger(__name__)

Batch = Sequence[Mapping[str, Any]]
OPTIMIZER_STATES = 2  # tensors as large as a parameter that AdamW keeps of it


def report_dry_run(
    model: nn.Module,
    batch: Batch,
    *,
    parts: int,
    context: Callable[[], AbstractContextManager[Any]],
    device: torch.device,
) -> None:
    """:func:`dry_run` before a run's first step; logs its peak memory.

    Raises:
        MachineError: the memory does not suffice; says what to change.
    """
    start = time.perf_counter()
    try:
        peak = dry_run(model, batch, parts=parts, context=context, device=device)
    except (RuntimeError, MemoryError) as e:
        explained = explain(e, "the dry run before the first step", batch, device=device)
        if explained is None:
            raise
        raise explained from e
    height, width = batch[0]["image"].shape[-2:]
    logger.info(
        "Dry run: %d images of %d x %d pixels (height x width) with %d objects each%s: peak memory %.0f MiB of %s, in "
        "%.1f s",
        len(batch),
        height,
        width,
        len(batch[0]["instances"]),
        f", in {parts} parts" if parts > 1 else "",
        peak / 2**20,
        device if device.type == "cuda" else "the process",
        time.perf_counter() - start,
    )


def dry_run(
    model: nn.Module,
    batch: Batch,
    *,
    parts: int,
    context: Callable[[], AbstractContextManager[Any]],
    device: torch.device,
) -> int:
    """Forward and backward pass of a batch, beside as much memory as AdamW takes; nothing of the run changes.

    Weights, buffers and random generators are afterwards what they were; gradients are gone.

    Args:
        model: in training mode. batch: what to work on. parts: see ``train.accumulate``.
        context: around the forward pass. device: of the model.

    Returns:
        Peak memory in bytes: on a GPU what torch reserved there, on a CPU that of the whole process.
    """
    module, extra = (model.module, 1) if isinstance(model, DistributedDataParallel) else (model, 0)
    trained = [p for p in module.parameters() if p.requires_grad]
    with _unchanged(module):
        reset_peak_memory(device)
        # Of a resumed run the states are there already; they are few beside the activations.
        states = [torch.ones_like(p) for p in trained for _ in range(OPTIMIZER_STATES + extra)]
        accumulate_gradients(
            module, split_batch(batch, parts), context=context, scale=lambda loss: loss, timer=PhaseTimer(device)
        )
        peak = peak_memory(device)
        del states
    return peak


@contextmanager
def _unchanged(module: nn.Module) -> Iterator[None]:
    generators = random_state()
    buffers = [(buffer, buffer.clone()) for buffer in module.buffers()]
    try:
        yield
    finally:
        module.zero_grad(set_to_none=True)
        with torch.no_grad():
            for buffer, value in buffers:
                buffer.copy_(value)
        set_random_state(generators)
