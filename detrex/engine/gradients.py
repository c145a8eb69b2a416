"""The gradient of an update: of a batch at once, or summed over its parts, which need less memory."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from detrex.config.validation import ConfigError
from detrex.modeling.batching import WholeBatch

from .metrics import PhaseTimer

__all__ = ["accumulate_gradients", "autocast", "check_parts", "losses_of_parts", "split_batch"]

Batch = Sequence[Mapping[str, Any]]

_DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}


def autocast(device: torch.device, dtype: str | None) -> torch.autocast:
    """The context of a forward pass in "bfloat16" or "float16", or in float32 for None.

    Raises:
        ConfigError: another ``dtype``.
    """
    if dtype is not None and dtype not in _DTYPES:
        raise ConfigError(f"train.amp.dtype={dtype!r} must be one of {', '.join(_DTYPES)}")
    return torch.autocast(device.type, dtype=_DTYPES.get(dtype), enabled=dtype is not None)


def check_parts(model: nn.Module, count: int) -> None:
    """Raise ConfigError if a model cannot work through its batches in ``count`` parts."""
    module = model.module if isinstance(model, DistributedDataParallel) else model
    if count < 1:
        raise ConfigError(f"train.accumulate={count} must be a number of parts, 1 or more")
    if count > 1 and "whole_batch" not in inspect.signature(module.forward).parameters:
        raise ConfigError(
            f"train.accumulate={count}: {type(module).__name__}.forward does not take whole_batch "
            "(detrex.modeling.batching.WholeBatch), without which the losses of parts do not sum up to the batch's"
        )


def split_batch(batch: Batch, count: int) -> list[Batch]:
    """``count`` parts of a batch, in order, whose sizes differ by one image at most."""
    bounds = [len(batch) * i // count for i in range(count + 1)]
    return [batch[start:end] for start, end in pairwise(bounds)]


def losses_of_parts(model: nn.Module, parts: Sequence[Batch]) -> Iterator[dict[str, Tensor]]:
    """Losses by name of one part after the other; over all parts they sum up to those of the batch.

    Args:
        model: in training mode; where there are several parts it takes ``whole_batch``.
        parts: of one batch. In several processes each has as many.

    Raises:
        TypeError: the model returns something else than a dict of losses.
    """
    whole = (WholeBatch.of([x for part in parts for x in part]),) if len(parts) > 1 else ()
    for part in parts:
        losses = model(part, *whole)
        if not isinstance(losses, Mapping) or not losses:
            raise TypeError(f"a model in training mode must return a dict of losses, not {losses!r}")
        yield dict(losses)


def accumulate_gradients(
    model: nn.Module,
    parts: Sequence[Batch],
    *,
    context: Callable[[], AbstractContextManager[Any]],
    scale: Callable[[Tensor], Tensor],
    timer: PhaseTimer,
) -> dict[str, Tensor]:
    """Add the gradient of a batch to the parameters' own, part by part; processes exchange it with the last part.

    Args:
        model: see :func:`losses_of_parts`. parts: of a batch. context: around the forward pass, such as autocast.
        scale: of the loss, before its backward pass. timer: takes the phases ``forward_time`` and ``backward_time``.

    Returns:
        ``total_loss`` and the losses by name, of the whole batch, without a graph.
    """
    sums: dict[str, Tensor] = {}
    passes = losses_of_parts(model, parts)
    for i in range(len(parts)):
        with _exchange(model, last=i + 1 == len(parts)):
            with timer.phase("forward_time"), context():
                losses = next(passes)
                total = sum(losses.values())
            with timer.phase("backward_time"):
                scale(_spoil_gradient_unless_finite(total)).backward()
        for name, value in {"total_loss": total, **losses}.items():
            sums[name] = sums[name] + value.detach() if name in sums else value.detach()
    return sums


@contextmanager
def _exchange(model: nn.Module, *, last: bool) -> Iterator[None]:
    if last or not isinstance(model, DistributedDataParallel):
        yield
    else:
        with model.no_sync():
            yield


def _spoil_gradient_unless_finite(total: Tensor) -> Tensor:
    """The same value and gradient; but a value that is not finite makes all gradients NaN.

    The check of the gradient is then the check of the loss as well, and all processes, which share the gradient, skip
    or do the same step without another exchange.
    """
    value = total.detach()
    return total * (value - value + 1)
