"""Reading of checkpoint files without running code that they contain."""

import argparse
import codecs
import collections
import io
import pickle
from typing import IO, Any, ClassVar

import numpy as np
import torch
from detectron2.utils.file_io import PathManager

# What arrays and numpy scalars are rebuilt from, under the names that numpy 1 and numpy 2 write.
_NUMPY_GLOBALS: dict[str, Any] = {
    "numpy.dtype": np.dtype,
    "numpy.ndarray": np.ndarray,
    **{
        f"numpy.{core}.{module}.{name}": getattr(getattr(np._core, module), name)
        for core in ("core", "_core")
        for module, name in (("multiarray", "_reconstruct"), ("multiarray", "scalar"), ("numeric", "_frombuffer"))
    },
}
_DTYPES = tuple(type(np.dtype(code)) for code in "?bBhHiIlLqQefd")


def load_torch(filename: str) -> Any:
    """``torch.load`` to the CPU with ``weights_only=True``.

    Allowed beyond torch's own list: arrays and numpy scalars (metrics), and ``argparse.Namespace``, in which the
    original DETR repositories save their options.

    Raises:
        pickle.UnpicklingError: the file holds an object of a type that is not known to be safe; the message says how
            to allow it.
    """
    allowed = [argparse.Namespace, *_DTYPES, *((value, name) for name, value in _NUMPY_GLOBALS.items())]
    with torch.serialization.safe_globals(allowed), PathManager.open(filename, "rb") as f:
        try:
            return torch.load(f, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            raise pickle.UnpicklingError(
                f"{filename} holds more than weights. If you trust its source, allow the type named below by "
                f"torch.serialization.add_safe_globals([...]) before loading. {error}"
            ) from error


def load_pickle(filename: str) -> Any:
    """Unpickle a file of arrays, tensors, containers and strings, as model zoos distribute them.

    Raises:
        pickle.UnpicklingError: the file refers to anything else.
    """
    with PathManager.open(filename, "rb") as f:
        return _WeightsUnpickler(f, filename).load()


def _load_storage(data: bytes) -> Any:
    """Stands for torch's function of this purpose, which would unpickle anything."""
    return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)


class _WeightsUnpickler(pickle.Unpickler):
    """Knows the few functions from which pickle rebuilds arrays and tensors, and nothing else."""

    _known: ClassVar = {
        **_NUMPY_GLOBALS,
        "_codecs.encode": codecs.encode,
        "collections.OrderedDict": collections.OrderedDict,
        "torch._utils._rebuild_tensor_v2": torch._utils._rebuild_tensor_v2,
        "torch._utils._rebuild_parameter": torch._utils._rebuild_parameter,
        "torch.storage._load_from_bytes": _load_storage,
    }

    def __init__(self, file: IO[bytes], filename: str) -> None:
        super().__init__(file, encoding="latin1")  # Caffe2's files come from Python 2
        self._filename = filename

    def find_class(self, module: str, name: str) -> Any:
        full_name = f"{module}.{name}"
        if full_name not in self._known:
            raise pickle.UnpicklingError(
                f"{self._filename} refers to {full_name}. Only arrays, tensors and plain containers are read from "
                "pickle files; if you trust the file, convert it to .pth."
            )
        return self._known[full_name]
