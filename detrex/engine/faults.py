"""What a failing step has to say: which layer, which images, which shape, and what to change."""

from __future__ import annotations

import copy
import dataclasses
import os
import re
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from typing import Any

import torch
from detectron2.utils import comm
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.nn.parallel import DistributedDataParallel

from detrex.distributed.errors import MachineError
from detrex.utils.random_state import random_state, set_random_state

from .gradients import losses_of_parts

__all__ = ["explain", "few", "image_names", "locate_non_finite", "save_batch"]

Batch = Sequence[Mapping[str, Any]]

_OUT_OF_MEMORY = re.compile(r"can't allocate memory|not enough memory|out of memory", re.IGNORECASE)
_LAST_BREATH_S = 2.0  # from a worker's broken connection to its end, at most
_WORKER = re.compile(r"DataLoader worker \(pid\(?s?\)? ([\d, ]+)\) (.*)", re.DOTALL)


def image_names(batch: Batch) -> str:
    """Files of a batch, for messages."""
    return ", ".join(str(x.get("file_name", x.get("image_id", "?"))) for x in batch)


# ------------------------------------------------------------------------------------------------ memory, workers
def explain(error: Exception, where: str, batch: Batch | None, *, device: torch.device) -> MachineError | None:
    """What to do about an error of a run; None if it is neither memory nor a data worker.

    Args:
        error: what was raised. where: "iteration 7". batch: what a step worked on, if it was one that failed.
        device: what it ran on.
    """
    worker = _WORKER.search(str(error)) or _WORKER.search(_lost_worker(error))
    if worker:
        pids, how = worker.group(1), worker.group(2).splitlines()[0].strip(" .")
        return MachineError(
            f"the data worker with pid {pids} died at {where}: {how}. One that is killed from outside most often ran "
            "out of memory: lower num_workers of dataloader.train or dataloader.test. Go on with --resume"
        )
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)) or _OUT_OF_MEMORY.search(str(error)):
        return MachineError(f"out of memory at {where} on {_memory(device)}. {_shapes(batch)}{_LESS}")
    return None


def _lost_worker(error: BaseException | None) -> str:
    """What is known of a data worker that ended while a loader, in a frame that the error passed, waited for it.

    It may die while it hands over a batch: a broken connection is then all that the loader sees, and the system may
    tell of the end a moment later.
    """
    workers: dict[int, BaseProcess] = {}
    while error is not None:
        for frame, _ in traceback.walk_tb(error.__traceback__):
            found = getattr(frame.f_locals.get("self"), "_workers", None)
            workers.update((worker.sentinel, worker) for worker in found or () if isinstance(worker, BaseProcess))
        error = error.__context__
    try:
        if workers:
            wait(list(workers), timeout=_LAST_BREATH_S)
    except RuntimeError as e:  # the data loader's handler of SIGCHLD, which names the worker
        return str(e)
    lost = [worker for worker in workers.values() if worker.exitcode]
    return f"DataLoader worker (pid {lost[0].pid}) ended with exit code {lost[0].exitcode}" if lost else ""


_LESS = (
    "To need less: train.accumulate=2 or more, which changes no result; a smaller dataloader.train.total_batch_size or "
    "more processes; smaller images in dataloader.train.mapper; train.amp.enabled=true; recomputation with "
    "model.transformer.encoder.use_checkpoint=true. Go on with --resume"
)


def _memory(device: torch.device) -> str:
    if device.type != "cuda":
        return str(device)
    free, total = torch.cuda.mem_get_info(device)
    ours = torch.cuda.memory_reserved(device)
    return f"{device} ({total / 2**30:.1f} GiB, {ours / 2**30:.1f} held by this process, {free / 2**30:.1f} free)"


def _shapes(batch: Batch | None) -> str:
    images = [x for x in batch or () if isinstance(x.get("image"), Tensor)]
    if not images:
        return ""
    sizes = [tuple(x["image"].shape[-2:]) for x in images]
    height, width = max(h for h, _ in sizes), max(w for _, w in sizes)
    largest = images[max(range(len(sizes)), key=lambda i: sizes[i][0] * sizes[i][1])]
    boxes = f", {len(largest['instances'])} boxes" if "instances" in largest else ""
    return (
        f"The batch: {len(images)} images, {height} x {width} (height x width) when padded together; the largest is "
        f"{image_names([largest])}, {' x '.join(map(str, largest['image'].shape[-2:]))}{boxes}. "
    )


# ------------------------------------------------------------------------------------------------ non-finite numbers
def save_batch(folder: str, batch: Batch, *, iteration: int, values: Mapping[str, float]) -> str:
    """Write a batch as plain tensors to ``folder/non_finite_<iteration>.pth`` (``_rank<r>`` after the first process).

    The file loads with ``torch.load(path, weights_only=True)``.

    Returns:
        The path, or why there is none: a full disk must not hide what the batch did.
    """
    rank = f"_rank{comm.get_rank()}" if comm.get_rank() else ""
    path = os.path.join(folder, f"non_finite_{iteration:07d}{rank}.pth")
    try:
        torch.save({"iteration": iteration, "values": dict(values), "batch": [_plain(x) for x in batch]}, path)
    except (OSError, RuntimeError) as e:
        return f"not saved ({e})"
    return path


def _plain(sample: Mapping[str, Any]) -> dict[str, Any]:
    plain = {k: v for k, v in sample.items() if isinstance(v, (Tensor, str, int, float))}
    if "instances" in sample:
        fields = sample["instances"].get_fields()
        plain["instances"] = {k: getattr(v, "tensor", v) for k, v in fields.items()}
    return plain


def locate_non_finite(
    model: nn.Module, parts: Sequence[Batch], context: Callable[[], AbstractContextManager[Any]] = torch.enable_grad
) -> str:
    """The first layer that makes numbers which are not finite, found by repeating the step on a copy of the model.

    Args:
        model: in training mode; neither it nor the random generators change.
        parts: what the step worked on, one after the other. context: around the forward pass, such as autocast.
    """
    if isinstance(model, FSDPModule):
        return "unknown, for the model is spread over processes (train.fsdp)"
    before = random_state()
    model = model.module if isinstance(model, DistributedDataParallel) else model
    try:
        return _repeat(copy.deepcopy(model), parts, context)
    except Exception as e:  # whatever it is must not hide the fault itself
        return f"unknown, repeating the step failed: {type(e).__name__}: {e}"
    finally:
        set_random_state(before)


def _repeat(model: nn.Module, parts: Sequence[Batch], context: Callable[[], AbstractContextManager[Any]]) -> str:
    spoilt = [name for name, p in model.named_parameters() if not p.isfinite().all()]
    if spoilt:
        return f"{few(spoilt)} (parameters that are not finite already)"
    found: dict[str, list[str]] = {"forward": [], "backward": []}

    def check_gradient(name: str, gradient: Tensor) -> None:
        if not gradient.isfinite().all():
            found["backward"].append(name)

    def check_output(name: str, _: nn.Module, __: Any, output: Any) -> None:
        for tensor in _tensors(output):
            if not tensor.detach().isfinite().all():
                found["forward"].append(name)
            elif tensor.requires_grad:
                tensor.register_hook(partial(check_gradient, name))

    for name, module in model.named_modules():
        module.register_forward_hook(partial(check_output, name or "the losses, after the last layer"))
    passes = losses_of_parts(model, parts)
    for _ in parts:
        with context():
            total = sum(next(passes).values())
        if found["forward"]:
            return f"{found['forward'][0]} (first output that is not finite)"
        total.backward()
    bad = [name for name, p in model.named_parameters() if p.grad is not None and not p.grad.isfinite().all()]
    if found["backward"]:
        return f"{found['backward'][0]} (its output's gradient is the first that is not finite); parameters {few(bad)}"
    return f"parameters {few(bad)} (their gradients)" if bad else "none; it did not happen again when repeated here"


def _tensors(value: Any) -> Iterator[Tensor]:
    """The floating-point tensors within nested containers and dataclasses."""
    if isinstance(value, Tensor):
        if value.is_floating_point():
            yield value
        return
    if dataclasses.is_dataclass(value):
        value = [getattr(value, field.name) for field in dataclasses.fields(value)]
    elif isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        for item in value:
            yield from _tensors(item)


def few(names: Sequence[str], most: int = 3) -> str:
    """The first names, and how many more there are."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
