"""Checkpoint files, read without running what is in them."""

from __future__ import annotations

import io
import json
import logging
import os
import pickle
import struct
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from detrex.utils.regular_files import open_regular, raise_machine_fault

from .dialects.errors import CheckpointError
from .dialects.wrappers import unwrap
from .locating import INDEX_SUFFIX, SUFFIXES, shards_of, split_choice
from .unpickling import Stored, finish, read_pickle

__all__ = ["class_names", "files_of", "read_checkpoint", "read_values", "run_id_of", "verify_archive"]

logger = logging.getLogger(__name__)

SLACK = 16 << 20  # bytes; other programs compress texts in their archives
CHUNK = 1 << 20
# How torch's files from before 1.6 begin; there is no checksum in them.
_OLD_MAGIC, _OLD_PROTOCOL = 0x1950A86A20F9469CFC6C, 1001


def files_of(filename: str) -> list[str]:
    """The file itself or, of the index of a model in several files, the index and those."""
    filename, _ = split_choice(filename)
    return [filename, *(str(Path(filename).with_name(name)) for name in shards_of(filename))]


def read_checkpoint(filename: str, *, checksums: bool = False) -> dict[str, Any]:
    """Read ``.pth``/``.pt``/``.bin``, ``.safetensors``, the ``.index.json`` of several, or detectron2's ``.pkl``.

    Args:
        filename: a file; ``?weights=ema`` or ``?weights=raw`` after it chooses where it holds both.
        checksums: whether to compare a torch file with the checksums in it.

    Returns:
        A dict with the state dict as ``"model"`` and whatever else the file holds; all tensors on the CPU.
        ``"weights"`` is ``"ema"`` or ``"raw"`` where the file says which.

    Raises:
        CheckpointError: another type of file, a damaged one, or one that holds more than tensors, numbers and strings.
        OSError, MemoryError: the machine failed, not the file.
    """
    filename, choice = split_choice(filename)
    if filename.endswith(INDEX_SUFFIX):
        return {"model": {k: v for part in files_of(filename)[1:] for k, v in read_checkpoint(part)["model"].items()}}
    data, notes = _unwrapped(filename, choice, checksums=checksums)
    for note in notes:
        logger.info("Checkpoint %s: %s", filename, note)
    data["model"] = {str(name): _to_tensor(value, name, filename) for name, value in data["model"].items()}
    return data


def read_values(filename: str | os.PathLike) -> dict[str, Any]:
    """What a checkpoint holds beside its weights; quick, for no tensor is read: those in it are on the meta device.

    Args:
        filename: see :func:`read_checkpoint`.

    Raises:
        CheckpointError: see :func:`read_checkpoint`.
    """
    filename, choice = split_choice(os.fspath(filename))
    if filename.endswith(INDEX_SUFFIX):
        return {}
    data, _ = _unwrapped(filename, choice, tensors=False)
    del data["model"]
    return data


def run_id_of(filename: str | os.PathLike) -> str:
    """Id of the run that wrote a checkpoint; "" if the file has none.

    Raises:
        CheckpointError: see :func:`read_checkpoint`.
    """
    run_id = read_values(filename).get("run_id", "")
    return run_id if isinstance(run_id, str) else ""


def class_names(checkpoint: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of the classes in the order of their ids, from what :func:`read_checkpoint` returns.

    This project keeps them in ``metadata``, MMDetection 2 in ``meta``, MMDetection 3 in its ``dataset_meta``; () if the
    file has none.

    Raises:
        CheckpointError: a name is neither text nor a number.
    """
    metadata, meta = checkpoint.get("metadata"), checkpoint.get("meta")
    dataset_meta = meta.get("dataset_meta") if isinstance(meta, Mapping) else None
    places = ((metadata, "class_names"), (dataset_meta, "classes"), (dataset_meta, "CLASSES"), (meta, "CLASSES"))
    for place, key in places:
        names = place.get(key) if isinstance(place, Mapping) else None
        if isinstance(names, (list, tuple)):
            odd = [type(name).__name__ for name in names if not isinstance(name, (str, int, float))]
            if odd:
                raise CheckpointError(f"the class names in the checkpoint must be text; among them is a {odd[0]}")
            return tuple(map(str, names))
    return ()


def _unwrapped(filename: str, choice: str, **how: bool) -> tuple[dict[str, Any], list[str]]:
    data = _read(filename, **how)
    try:
        return unwrap(data, choice)
    except CheckpointError as e:
        raise CheckpointError(f"checkpoint {filename} {e}") from e


def _read(filename: str, *, tensors: bool = True, checksums: bool = False) -> Any:
    suffix = Path(filename).suffix
    if suffix not in SUFFIXES:
        raise CheckpointError(f"checkpoint {filename} is of unknown type; known are {', '.join(SUFFIXES)}")
    try:
        with open_regular(filename) as file:
            if suffix == ".safetensors":
                return _read_safetensors(filename, tensors=tensors)
            if suffix == ".pkl":
                return _read_pkl(file)
            return _read_torch(file, tensors=tensors, checksums=checksums)
    except CheckpointError as e:
        raise CheckpointError(f"checkpoint {filename} {e}") from e
    except pickle.UnpicklingError as e:
        raise CheckpointError(
            f"checkpoint {filename} is damaged, or holds objects that could run code when loaded: {e}"
        ) from e
    except Exception as e:  # bytes that are no checkpoint fail in any way
        raise_machine_fault(e, filename)
        raise CheckpointError(f"checkpoint {filename} cannot be read: {type(e).__name__}: {str(e)[:1000]}") from e


def _to_tensor(value: Any, name: Any, filename: str) -> Tensor:
    if isinstance(value, Tensor):
        return value
    if isinstance(value, (np.ndarray, np.number, np.bool_)):
        return torch.as_tensor(np.asarray(value))
    name = ascii(str(name)[:200])[1:-1]
    raise CheckpointError(f"checkpoint {filename}: {name} is a {type(value).__name__}, not a tensor")


# --------------------------------------------------------------------------------------------------------- readers
def _read_torch(file: BinaryIO, *, tensors: bool, checksums: bool) -> Any:
    start, size = file.read(4), os.fstat(file.fileno()).st_size
    file.seek(0)
    if start[:2] == b"PK":
        with zipfile.ZipFile(file) as archive:
            return _read_archive(archive, file, size, tensors=tensors, checksums=checksums)
    return _read_old(file, size, tensors=tensors)


def _read_archive(archive: zipfile.ZipFile, file: BinaryIO, size: int, *, tensors: bool, checksums: bool) -> Any:
    """What ``torch.save`` writes: a pickle and a record for each storage, in one folder of an archive.

    Only this directory of the archive counts: a second reader may find another one in the same file.
    """
    entries = {entry.filename: entry for entry in archive.infolist()}
    folder = next(iter(entries), "").partition("/")[0]
    outside = [name for name in entries if not name.startswith(f"{folder}/")]
    if outside or len(entries) < len(archive.infolist()):
        raise CheckpointError(
            f"cannot be read: torch.save writes no name twice, and none in more than one folder: {outside[:3]!a}"
        )
    unpacked = sum(entry.file_size for entry in entries.values())
    if unpacked > size + SLACK:
        raise CheckpointError(f"has {size} bytes and unpacks to {unpacked}: torch.save writes no such file")
    if f"{folder}/constants.pkl" in entries:
        raise CheckpointError("cannot be read: it is a TorchScript program, not a checkpoint")
    if f"{folder}/byteorder" in entries and archive.read(f"{folder}/byteorder") != b"little":
        raise CheckpointError("cannot be read: its numbers are in the order of a big-endian machine")
    with archive.open(f"{folder}/data.pkl") as record:
        root = read_pickle(io.BytesIO(record.read()), size)
    storages: dict[str, Tensor] = {}

    def view(stored: Stored) -> Tensor:
        entry = entries.get(f"{folder}/data/{stored.key}")
        if entry is None:
            raise CheckpointError(f"has no storage {stored.key[:50]!a}")
        if tensors and stored.key not in storages:
            storages[stored.key] = _read_record(archive, entry, file, size, checksums=checksums)
        return stored.view(storages[stored.key] if tensors else None)

    return finish(root, view, size)


def _read_record(
    archive: zipfile.ZipFile, entry: zipfile.ZipInfo, file: BinaryIO, size: int, *, checksums: bool
) -> Tensor:
    """The bytes (N,) of a storage, read into their final place."""
    if entry.compress_type != zipfile.ZIP_STORED:
        return torch.from_numpy(np.frombuffer(bytearray(archive.read(entry)), np.uint8))
    file.seek(entry.header_offset)
    header = file.read(30)
    if header[:4] != b"PK\3\4":
        raise CheckpointError(f"is damaged: {entry.filename[:100]!a} is not where its directory says")
    file.seek(sum(struct.unpack("<HH", header[26:])), os.SEEK_CUR)
    data = _read_bytes(file, entry.file_size, size)
    if checksums and _checksum(data) != entry.CRC:
        raise CheckpointError(f"is damaged: the checksum of {entry.filename} is wrong")
    return data


def _read_old(file: BinaryIO, size: int, *, tensors: bool) -> Any:
    """The format before torch 1.6: pickles, of which the last lists the storages that follow."""
    types: dict[str, torch.dtype] = {}
    magic, protocol, _ = (read_pickle(file, size) for _ in range(3))
    if (magic, protocol) != (_OLD_MAGIC, _OLD_PROTOCOL):
        raise CheckpointError("cannot be read: it is not of torch.save")
    root = read_pickle(file, size, types)
    storages: dict[str, Tensor] = {}
    for key in read_pickle(file, size) if tensors else ():
        (count,) = struct.unpack("<q", file.read(8))
        storages[key] = _read_bytes(file, count * types[key].itemsize, size)

    def view(stored: Stored) -> Tensor:
        return stored.view(storages[stored.key] if tensors else None)

    return finish(root, view, size)


def _read_bytes(file: BinaryIO, count: int, size: int) -> Tensor:
    """The next bytes (N,) of a file of a known size."""
    if not 0 <= count <= size - file.tell():
        raise CheckpointError(f"is cut off: {count} bytes should follow byte {file.tell()} of {size}")
    data = torch.empty(count, dtype=torch.uint8)
    rest = memoryview(data.numpy())
    while len(rest):
        read = file.readinto(rest)
        if not read:
            raise CheckpointError("is cut off while it is being read")
        rest = rest[read:]
    return data


def _checksum(data: Tensor) -> int:
    checksum, view = 0, memoryview(data.numpy())
    for start in range(0, len(view), CHUNK):
        checksum = zlib.crc32(view[start : start + CHUNK], checksum)
    return checksum


def _read_pkl(file: BinaryIO) -> Any:
    size = os.fstat(file.fileno()).st_size
    data = finish(read_pickle(file, size), _no_tensor, size)
    if isinstance(data, Mapping) and "model" not in data:
        raise CheckpointError(
            "is a Caffe2 file, which is not supported; use detectron2://ImageNetPretrained/torchvision/R-50.pkl"
        )
    return data


def _no_tensor(stored: Stored) -> Tensor:
    raise CheckpointError("refers to tensors outside of it")


def _read_safetensors(filename: str, *, tensors: bool) -> Any:
    from safetensors import safe_open

    with safe_open(filename, framework="pt") as file:
        state = {name: file.get_tensor(name) for name in file.keys()} if tensors else {}
        texts = file.metadata() or {}
    if "metadata" not in texts:
        return {"model": state}
    return {
        "model": state,
        "metadata": finish(json.loads(texts["metadata"]), lambda stored: None, len(texts["metadata"])),
    }


def verify_archive(path: Path) -> None:
    """Compare a file that ``torch.save`` wrote with the checksums in it.

    Raises:
        CheckpointError: it is cut off, or bits have changed.
    """
    try:
        with open_regular(path) as file, zipfile.ZipFile(file) as archive:
            damaged = archive.testzip()
    except Exception as e:  # damage shows in any way
        raise_machine_fault(e, path)
        raise CheckpointError(f"checkpoint {path} is damaged or cut off: {type(e).__name__}: {e}") from e
    if damaged is not None:
        raise CheckpointError(f"checkpoint {path} is damaged: the checksum of {damaged} is wrong")
