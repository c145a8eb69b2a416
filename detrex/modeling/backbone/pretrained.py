"""Weights that a backbone starts from: fetched, checked and copied."""

from __future__ import annotations

import errno
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn

__all__ = ["copy_pretrained", "explain_failure", "to_pixels"]


def to_pixels(values: Sequence[float]) -> list[float]:
    """Mean or standard deviation of images on the scale of 0 to 1, on that of 0 to 255."""
    return [255.0 * float(value) for value in values]


@contextmanager
def explain_failure(name: str, path: str, page: str) -> Iterator[None]:
    """Say which file to put where if the weights of a model cannot be had.

    Args:
        name: of the model.
        path: of the file that should have them; "" if they come from the network.
        page: where they are published.

    Raises:
        ValueError: instead of any error of the file or the network. Errors of memory and disk remain what they are.
    """
    try:
        yield
    except Exception as e:
        if isinstance(e, MemoryError) or (isinstance(e, OSError) and e.errno in (errno.ENOSPC, errno.EDQUOT)):
            raise
        reason = f"{type(e).__name__}: {str(e).strip().partition(chr(10))[0]}"
        if path:
            raise ValueError(
                f"checkpoint_path={path} does not give the weights of {name} ({reason}). Expected the file that is "
                f"published at {page}: download it again, or correct the path"
            ) from e
        raise ValueError(
            f"the weights of {name} cannot be fetched from {page} ({reason}). Download the file with the weights from "
            "there where there is a network, and set checkpoint_path=/path/to/the/file; or start from random weights "
            "with pretrained=false"
        ) from e


def copy_pretrained(source: nn.Module, target: nn.Module, *, initial: nn.Module) -> int:
    """Copy the weights of a model to one that has a part of it.

    Args:
        source: the pretrained model.
        target: gets the tensors of the same names, and must find all of its own.
        initial: the source before its weights were loaded. Libraries load what fits and are silent about the rest.

    Returns:
        The number of tensors copied.

    Raises:
        ValueError: the source still has initial weights. RuntimeError: it lacks tensors of the target.
    """
    own, before = target.state_dict(), dict(initial.named_parameters())
    weights = [(name, p) for name, p in source.named_parameters() if name in own and p.ndim > 1]
    untouched = [name for name, p in weights if torch.equal(p, before[name])]
    if untouched:
        raise ValueError(f"it lacks {len(untouched)} of {len(weights)} weights, such as {untouched[0]}")
    state = {name: value for name, value in source.state_dict().items() if name in own}
    target.load_state_dict(state)
    return len(state)
