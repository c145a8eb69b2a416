"""The random generators of a process: Python's, numpy's and torch's, captured, restored and seeded for one sample."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

__all__ = ["random_state", "seeded", "set_random_state"]


def random_state() -> dict[str, Any]:
    """State of all generators, as plain values and tensors that a checkpoint can hold."""
    state = {"python": random.getstate(), "numpy": _numpy_state(), "torch": torch.get_rng_state()}
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def set_random_state(state: Mapping[str, Any]) -> None:
    """Inverse of :func:`random_state`; a GPU's state is left out where there is no GPU."""
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    _set_numpy_state(state["numpy"])
    torch.set_rng_state(state["torch"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


@contextmanager
def seeded(*seed: int) -> Iterator[None]:
    """Within the context, all generators of the CPU start from a seed of several numbers; afterwards they go on."""
    python, numpy, own = random.getstate(), _numpy_state(), torch.get_rng_state()
    words = np.random.SeedSequence(seed).generate_state(4)
    random.seed(int(words[0]))
    np.random.seed(words[1:3])  # noqa: NPY002  the generator that augmentations draw from
    torch.default_generator.manual_seed(int(words[3]))  # torch.manual_seed would seed the GPU as well
    try:
        yield
    finally:
        random.setstate(python)
        _set_numpy_state(numpy)
        torch.set_rng_state(own)


def _numpy_state() -> dict[str, Any]:
    _, key, position, has_gauss, gauss = np.random.get_state()  # noqa: NPY002
    return {"key": key.tolist(), "position": position, "has_gauss": has_gauss, "gauss": gauss}


def _set_numpy_state(state: Mapping[str, Any]) -> None:
    key = np.array(state["key"], dtype=np.uint32)
    np.random.set_state(("MT19937", key, state["position"], state["has_gauss"], state["gauss"]))  # noqa: NPY002
