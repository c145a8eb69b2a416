"""Checkpoint files, found and read without running what is in them."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlparse
from urllib.request import url2pathname

import numpy as np
import torch
from torch import Tensor

from .disk import check_archive_size
from .download import download
from .errors import CheckpointError
from .hub import HUB_PREFIX, INDEX_SUFFIX, download_from_hub, shards_of, weights_in_folder
from .safe_types import ALLOWED_GLOBALS, NUMPY_GLOBALS

__all__ = ["class_names", "files_of", "read_checkpoint", "resolve_checkpoint", "run_id_of"]


def resolve_checkpoint(path: str | os.PathLike) -> str:
    """Local file of a checkpoint; what is remote is downloaded once and cached.

    Args:
        path: a file; a folder of Hugging Face's layout; ``hf://organisation/name``, ``@revision`` and ``/file`` after
            it if need be; ``http(s)://``, ``file://`` or ``detectron2://``.

    Raises:
        CheckpointError: the file is absent, or the download failed.
    """
    path = os.fspath(path)
    if path.startswith(HUB_PREFIX):
        return download_from_hub(path)
    parsed = urlparse(path)
    queries = parse_qs(parsed.query) if "://" in path else {}
    if queries.pop("matching_heuristics", ["True"]) != ["True"] or queries:
        raise CheckpointError(f"checkpoint {path}: unknown query {parsed.query!r}")
    if parsed.scheme == "file":
        path = url2pathname(parsed.path)
    elif "://" in path:
        return download(parsed._replace(query="").geturl())
    if os.path.isfile(path):
        return path
    if os.path.isdir(path):
        return weights_in_folder(Path(path))
    folder = Path(path).parent
    there = sorted(p.name for p in folder.glob("*") if p.suffix in _READERS) if folder.is_dir() else None
    listing = f"{folder} does not exist" if there is None else f"{folder} has {', '.join(there) or 'no checkpoint'}"
    raise CheckpointError(f"checkpoint {path} not found: {listing}")


def files_of(filename: str) -> list[str]:
    """The file itself or, of the index of a model in several files, the index and those."""
    return [filename, *(str(Path(filename).with_name(name)) for name in shards_of(filename))]


def read_checkpoint(filename: str) -> dict[str, Any]:
    """Read ``.pth``/``.pt``/``.bin``, ``.safetensors``, the ``.index.json`` of several, or detectron2's ``.pkl``.

    Returns:
        A dict with the state dict as ``"model"`` and whatever else the file holds; all tensors on the CPU.

    Raises:
        CheckpointError: another type of file, a damaged one, or one that holds more than tensors, numbers and strings.
    """
    if filename.endswith(INDEX_SUFFIX):
        return {"model": {k: v for part in files_of(filename)[1:] for k, v in read_checkpoint(part)["model"].items()}}
    suffix = Path(filename).suffix
    if suffix not in _READERS:
        raise CheckpointError(f"checkpoint {filename} is of unknown type; known are {', '.join(_READERS)}")
    try:
        data = _READERS[suffix](filename)
    except CheckpointError:
        raise
    except pickle.UnpicklingError as e:
        raise CheckpointError(
            f"checkpoint {filename} is damaged, or holds objects that could run code when loaded: {e}"
        ) from e
    except Exception as e:  # bytes that are no checkpoint fail in any way
        raise CheckpointError(f"checkpoint {filename} cannot be read: {type(e).__name__}: {e}") from e
    return _wrap(data, filename)


def class_names(checkpoint: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of the classes in the order of their ids, from what :func:`read_checkpoint` returns.

    This project keeps them in ``metadata``, MMDetection 2 in ``meta``, MMDetection 3 in its ``dataset_meta``; () if the
    file has none.
    """
    metadata, meta = checkpoint.get("metadata"), checkpoint.get("meta")
    dataset_meta = meta.get("dataset_meta") if isinstance(meta, Mapping) else None
    places = ((metadata, "class_names"), (dataset_meta, "classes"), (dataset_meta, "CLASSES"), (meta, "CLASSES"))
    for place, key in places:
        names = place.get(key) if isinstance(place, Mapping) else None
        if isinstance(names, (list, tuple)):
            return tuple(map(str, names))
    return ()


def run_id_of(filename: str | os.PathLike) -> str:
    """Id of the run that wrote a checkpoint; "" if the file has none.

    Raises:
        CheckpointError: see :func:`read_checkpoint`.
    """
    run_id = read_checkpoint(os.fspath(filename)).get("run_id", "")
    return run_id if isinstance(run_id, str) else ""


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
    state = {str(name).removeprefix("module."): _to_tensor(value, name, filename) for name, value in state.items()}
    return {**data, "model": state}


def _to_tensor(value: Any, name: str, filename: str) -> Tensor:
    if isinstance(value, Tensor):
        return value
    kind = type(value).__name__
    if isinstance(value, (np.ndarray, np.number, np.bool_)):
        try:
            return torch.as_tensor(np.asarray(value))
        except (TypeError, ValueError):  # an array of text
            kind = f"array of {value.dtype}"
    raise CheckpointError(f"checkpoint {filename}: {name} is a {kind}, not a tensor")


# --------------------------------------------------------------------------------------------------------- readers
def _read_torch(filename: str) -> Any:
    check_archive_size(Path(filename))
    with torch.serialization.safe_globals(ALLOWED_GLOBALS):
        return torch.load(filename, map_location="cpu", weights_only=True)


def _read_safetensors(filename: str) -> Any:
    from safetensors import safe_open

    with safe_open(filename, framework="pt") as file:
        state = {name: file.get_tensor(name) for name in file.keys()}
        texts = file.metadata() or {}
    return {"model": state, **({"metadata": json.loads(texts["metadata"])} if "metadata" in texts else {})}


_NO_BYTEARRAYS = {code: read for code, read in pickle._Unpickler.dispatch.items() if code != pickle.BYTEARRAY8[0]}


class _ArrayUnpickler(pickle._Unpickler):
    """Rebuilds numpy arrays and plain containers; any other global is refused.

    Python's own unpickler and not C's, which allocates what a number in a file of twenty bytes asks for: for its table
    of objects. For an array of bytes, both do; no weights have one.
    """

    dispatch = _NO_BYTEARRAYS
    _PLAIN = frozenset({("_codecs", "encode"), ("collections", "OrderedDict")})

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in self._PLAIN:
            return super().find_class(module, name)
        if f"{module}.{name}" in NUMPY_GLOBALS:
            return NUMPY_GLOBALS[f"{module}.{name}"]
        raise pickle.UnpicklingError(f"refused to import {module}.{name}")


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
