"""What a checkpoint may name beside tensors, so that a file that holds a little more than weights still loads.

torch reads files with ``weights_only=True``, which makes plain values and tensors and refuses every other type. The
types below are added: stand-ins for numpy's arrays and for objects that other code bases save beside their weights. A
stand-in keeps what it is given and runs nothing.
"""

from __future__ import annotations

import argparse
import math
import pickle
import re
from typing import Any

import numpy as np

__all__ = ["ALLOWED_GLOBALS", "NUMPY_GLOBALS", "Inert"]


class Inert:
    """Stands for an object whose code is not wanted; has the state it was saved with as attributes."""

    def __init__(self, *args: Any) -> None:
        self.args = args


class StoredType:
    """Stands for ``numpy.dtype``, which crashes when a damaged file sets its state.

    Args:
        code: of a type with a fixed size, such as "f4"; further arguments are numpy's flags.

    Raises:
        pickle.UnpicklingError: for any other code.
    """

    def __init__(self, code: Any, *_: Any) -> None:
        if not isinstance(code, str) or not re.fullmatch(r"[biufcSU]\d{1,9}", code):
            raise pickle.UnpicklingError(f"arrays of type {code!r} are refused")
        try:
            self.dtype = np.dtype(code)
        except TypeError as e:
            raise pickle.UnpicklingError(str(e)) from e

    def __setstate__(self, state: Any) -> None:
        if state[1] in ("<", ">"):
            self.dtype = self.dtype.newbyteorder(state[1])


class StoredArray(np.ndarray):
    """An array whose state is checked before numpy, which would crash, is given it."""

    def __setstate__(self, state: Any) -> None:
        _, shape, stored, fortran, data = state
        shape, dtype = tuple(shape), stored.dtype
        if not all(isinstance(size, int) and size >= 0 for size in shape):
            raise pickle.UnpicklingError(f"an array of shape {shape}")
        super().__setstate__((1, shape, dtype, bool(fortran), _bytes(data, math.prod(shape) * dtype.itemsize)))


def _reconstruct(*_: Any) -> StoredArray:
    """An empty array, which a file then gives a state."""
    return np.empty(0, np.uint8).view(StoredArray)


def _scalar(stored: StoredType, data: Any) -> np.generic:
    return np.frombuffer(_bytes(data, stored.dtype.itemsize), stored.dtype)[0]


def _bytes(data: Any, size: int) -> bytes:
    if isinstance(data, str):  # of Python 2
        data = data.encode("latin1")
    if not isinstance(data, bytes) or len(data) != size:
        raise pickle.UnpicklingError(f"an array of {size} bytes has other data")
    return data


# Under the names that numpy 2 writes and those that numpy 1 wrote.
NUMPY_GLOBALS: dict[str, Any] = {
    "numpy.dtype": StoredType,
    "numpy.ndarray": StoredArray,
    **{f"numpy.{core}.multiarray._reconstruct": _reconstruct for core in ("core", "_core")},
    **{f"numpy.{core}.multiarray.scalar": _scalar for core in ("core", "_core")},
}

# mmengine saves its history of losses and, in it, names of functions as getattr(HistoryBuffer, "mean").
_INERT = (
    "builtins.getattr",
    "mmengine.logging.history_buffer.HistoryBuffer",
    "mmengine.logging.message_hub.MessageHub",
)
_DICTS = ("addict.addict.Dict", "mmcv.utils.config.ConfigDict", "mmengine.config.config.ConfigDict")

# For ``torch.serialization.safe_globals``. The official DETR files keep their command line in a Namespace.
ALLOWED_GLOBALS: list[Any] = [
    argparse.Namespace,
    *((value, name) for name, value in NUMPY_GLOBALS.items()),
    *((Inert, name) for name in _INERT),
    *((dict, name) for name in _DICTS),
]
