"""What a checkpoint may name beside tensors, so that a file that holds a little more than weights still loads.

torch reads files with ``weights_only=True``, which makes plain values and tensors and refuses every other type. The
types below are added: arrays, and stand-ins for objects that other code bases save beside their weights. A stand-in
keeps what it is given and runs nothing.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np

__all__ = ["ALLOWED_GLOBALS", "NUMPY_GLOBALS", "Inert"]


class Inert:
    """Stands for an object whose code is not wanted; has the state it was saved with as attributes."""

    def __init__(self, *args: Any) -> None:
        self.args = args


_CORE = getattr(np, "_core", None) or np.core  # numpy 1
# Under the names that numpy 2 writes and those that numpy 1 wrote.
NUMPY_GLOBALS: dict[str, Any] = {
    "numpy.dtype": np.dtype,
    "numpy.ndarray": np.ndarray,
    **{
        f"numpy.{core}.multiarray.{name}": getattr(_CORE.multiarray, name)
        for core in ("core", "_core")
        for name in ("_reconstruct", "scalar")
    },
}
_DTYPES = tuple({type(np.dtype(code)) for code in "?bBhHiIlLqQefd"})

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
    *_DTYPES,
    *((value, name) for name, value in NUMPY_GLOBALS.items()),
    *((Inert, name) for name in _INERT),
    *((dict, name) for name in _DICTS),
]
