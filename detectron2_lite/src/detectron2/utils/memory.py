"""Survival of CUDA out-of-memory errors."""

import functools
import logging
from collections.abc import Callable
from typing import Any

import torch


def retry_if_cuda_oom(func: Callable[..., Any]) -> Callable[..., Any]:
    """Make ``func`` survive a CUDA out-of-memory error.

    It is called again after the cache was emptied, and then with its tensor arguments on the CPU, in which case its
    results are on the CPU too.

    Args:
        func: a function without state, as it may run up to three times. Only direct arguments that have ``.device`` and
            ``.to`` are moved, nested ones are not.
    """

    @functools.wraps(func)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        for _ in range(2):
            try:
                return func(*args, **kwargs)
            except RuntimeError as error:
                if not _is_cuda_oom(error):
                    raise
            # Outside of the except block: the traceback would keep the tensors of the failed call alive.
            torch.cuda.empty_cache()
        logging.getLogger(__name__).info("Copying the inputs of %s to the CPU: CUDA is out of memory", func)
        return func(*map(_to_cpu, args), **{key: _to_cpu(value) for key, value in kwargs.items()})

    return wrapped


def _is_cuda_oom(error: RuntimeError) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or "CUDA out of memory" in str(error)


def _to_cpu(value: Any) -> Any:
    device = getattr(value, "device", None)
    return value.to(device="cpu") if getattr(device, "type", None) == "cuda" and hasattr(value, "to") else value
