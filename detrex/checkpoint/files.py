"""Checkpoint files, read without running what is in them."""

from __future__ import annotations

import argparse
import os
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlparse

import numpy as np
import torch
from detectron2.utils.file_io import PathManager
from torch import Tensor

__all__ = ["CheckpointError", "read_checkpoint", "resolve_checkpoint"]


class CheckpointError(ValueError):
    """A checkpoint cannot be found, read or matched to the model; the message says what to do."""


def resolve_checkpoint(path: str | os.PathLike) -> str:
    """Local file of a path or URL (``http(s)://``, ``detectron2://``); a URL is downloaded once and cached.

    Raises:
        CheckpointError: the file is absent, or the download failed.
    """
    path = os.fspath(path)
    parsed = urlparse(path)
    queries = parse_qs(parsed.query) if "://" in path else {}
    if queries.pop("matching_heuristics", ["True"]) != ["True"] or queries:
        raise CheckpointError(f"checkpoint {path}: unknown query {parsed.query!r}")
    if "://" in path:
        url = parsed._replace(query="").geturl()
        try:
            return PathManager.get_local_path(url)
        except Exception as e:
            raise CheckpointError(
                f"cannot download {url}: {e}. Without a network, fetch it elsewhere and give "
                "train.init_checkpoint=/path/to/file, or train.init_checkpoint='' to start from scratch"
            ) from e
    if os.path.isfile(path):
        return path
    folder = Path(path).parent
    there = sorted(p.name for p in folder.glob("*") if p.suffix in _READERS) if folder.is_dir() else None
    listing = f"{folder} does not exist" if there is None else f"{folder} has {', '.join(there) or 'no checkpoint'}"
    raise CheckpointError(f"checkpoint {path} not found: {listing}")


def read_checkpoint(filename: str) -> dict[str, Any]:
    """Read ``.pth``/``.pt``/``.bin``, ``.safetensors`` or detectron2's ``.pkl``.

    Returns:
        A dict with the state dict as ``"model"`` and whatever else the file holds; all tensors on the CPU.

    Raises:
        CheckpointError: another type of file, a damaged one, or one that holds more than tensors, numbers and strings.
    """
    suffix = Path(filename).suffix
    if suffix not in _READERS:
        raise CheckpointError(f"checkpoint {filename} is of unknown type; known are {', '.join(_READERS)}")
    try:
        data = _READERS[suffix](filename)
    except pickle.UnpicklingError as e:
        raise CheckpointError(
            f"checkpoint {filename} is damaged, or holds objects that could run code when loaded: {e}"
        ) from e
    except (RuntimeError, EOFError, OSError, ValueError) as e:
        raise CheckpointError(f"checkpoint {filename} cannot be read: {e}") from e
    return _wrap(data, filename)


def _wrap(data: Any, filename: str) -> dict[str, Any]:
    if not isinstance(data, Mapping):
        raise CheckpointError(f"checkpoint {filename} holds a {type(data).__name__}, not a dict")
    data = dict(data)
    for key in ("model", "state_dict"):
        if isinstance(data.get(key), Mapping):
            state = data.pop(key)
            break
    else:
        state, data = data, {}
    state = {name.removeprefix("module."): _to_tensor(value, name, filename) for name, value in state.items()}
    return {**data, "model": state}


def _to_tensor(value: Any, name: str, filename: str) -> Tensor:
    if isinstance(value, Tensor):
        return value
    if isinstance(value, (np.ndarray, np.number)) and value.dtype != object:
        return torch.as_tensor(np.asarray(value))
    raise CheckpointError(f"checkpoint {filename}: {name} is a {type(value).__name__}, not a tensor")


# --------------------------------------------------------------------------------------------------------- readers
def _read_torch(filename: str) -> Any:
    # The official DETR files keep their command line in an argparse.Namespace.
    with torch.serialization.safe_globals([argparse.Namespace]):
        return torch.load(filename, map_location="cpu", weights_only=True)


def _read_safetensors(filename: str) -> Any:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(filename)
    except SafetensorError as e:
        raise CheckpointError(f"checkpoint {filename} cannot be read: {e}") from e


class _ArrayUnpickler(pickle.Unpickler):
    """Rebuilds numpy arrays and plain containers; any other global is refused."""

    _ALLOWED = frozenset(
        {
            ("_codecs", "encode"),
            ("collections", "OrderedDict"),
            ("numpy", "dtype"),
            ("numpy", "ndarray"),
            ("numpy._core.multiarray", "_reconstruct"),
            ("numpy._core.multiarray", "scalar"),
        }
    )

    def find_class(self, module: str, name: str) -> Any:
        # numpy 2 moved its private modules; files of either age must load.
        modern = module.replace("numpy.core", "numpy._core")
        if (modern, name) not in self._ALLOWED:
            raise pickle.UnpicklingError(f"refused to import {module}.{name}")
        if modern.startswith("numpy._core"):
            core = getattr(np, "_core", None) or np.core  # numpy 1
            return getattr(core.multiarray, name)
        return super().find_class(module, name)


def _read_pickle(filename: str) -> Any:
    with open(filename, "rb") as f:
        data = _ArrayUnpickler(f, encoding="latin1").load()
    if isinstance(data, Mapping) and "model" not in data:
        raise CheckpointError(
            f"checkpoint {filename} is a Caffe2 file, which is not supported; use "
            "detectron2://ImageNetPretrained/torchvision/R-50.pkl"
        )
    return data


_READERS = {
    ".pth": _read_torch,
    ".pt": _read_torch,
    ".bin": _read_torch,
    ".safetensors": _read_safetensors,
    ".pkl": _read_pickle,
}
