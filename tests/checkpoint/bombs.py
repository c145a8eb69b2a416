"""Small files that would take all memory or time of whoever reads them, or crash it.

    python -m tests.checkpoint.bombs FOLDER

reads every file in a folder that :func:`write_bombs` has filled, with 1 GiB of memory and ten seconds for each, and
prints what became of them as json.
"""

from __future__ import annotations

import io
import json
import pickle
import resource
import struct
import sys
import time
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

MEMORY, SECONDS = 1 << 30, 10


class Raw:
    """Pickles as the call of a function, with a state if there is one."""

    def __init__(self, *parts):
        self.parts = parts

    def __call__(self) -> None:
        """What it makes may be called in turn: pickle asks for a callable."""

    def __reduce__(self):
        return self.parts


def text(value: str) -> bytes:
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def name(module: str, attribute: str) -> bytes:
    return f"c{module}\n{attribute}\n".encode()


def long(value: int) -> bytes:
    data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(data)]) + data


def nested(levels: int) -> list:
    value: list = []
    for _ in range(levels):
        value = [value, value]
    return value


def endless() -> list:
    value: list = []
    value.append(value)
    return value


def chain(levels: int) -> bytes:
    """A list in a list ..., which Python's own pickler would not write."""
    return b"\x80\x02" + b"]" * (levels + 1) + b"a" * levels + b"."


MODULUS = sys.hash_info.modulus  # integers that differ by it have one hash
ENCODE = name("_codecs", "encode")
PROGRAMS: dict[str, bytes] = {
    "an array of objects": b"\x80\x02" + name("numpy.core.multiarray", "scalar") + name("numpy", "dtype")
    + text("O8") + b"K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK?tbU\x08AAAAAAAA\x86R.",
    "bytes that are encoded again and again": b"\x80\x02]" + text("a" * 1_000_000) + b"q\x000"
    + b"".join(ENCODE + b"h\x00" + text("latin1") + b"\x86Ra" for _ in range(10_000)) + b".",
    "another codec": b"\x80\x02" + ENCODE + text("a" * 1600) + text("utf-7") + b"\x86R.",
    "a dict made again and again": b"\x80\x02](" + b"".join(b"K\x00N\x86" for _ in range(100_000)) + b"lq\x000"
    + b"".join(name("collections", "OrderedDict") + b"h\x00\x85Ra" for _ in range(50_000)) + b".",
    "a state given again and again": b"\x80\x02" + name("argparse", "Namespace") + b")R("
    + b"".join(text(f"{i}") + b"N" for i in range(100_000)) + b"dq\x00b" + b"h\x00b" * 200_000 + b".",
    "lists within lists": pickle.dumps(nested(60), 2),
    "a list that contains itself": pickle.dumps(endless(), 2),
    "a chain of lists": chain(200_000),
    "keys of equal hash": b"\x80\x02}(" + b"".join(long(i * MODULUS) + b"N" for i in range(1, 100_000)) + b"u.",
    "places in the memo of equal hash": b"\x80\x02N" + b"".join(b"p%d\n" % (i * MODULUS) for i in range(60_000)) + b".",
    "long keys compared again and again": b"\x80\x02}" + text("a" * 10_000_000) + b"q\x00Ns" + text("a" * 10_000_000)
    + b"q\x010" + b"h\x01Ns" * 500_000 + b".",
    "millions of instructions": b"\x80\x02" + b"N0" * 5_000_000 + b"N.",
    "a long name again and again": b"\x80\x04" + text("a" * 5_000_000) + b"\x94" + b"h\x00h\x00\x930" * 100_000 + b".",
    "a name of a huge length": b"\x80\x02X\xff\xff\xff\x7f.",
    "2^40 bytes": b"\x80\x05\x96" + struct.pack("<Q", 1 << 40) + b".",
    "a huge frame": b"\x80\x04\x95" + struct.pack("<Q", 1 << 62) + b".",
    "a huge integer": b"\x80\x02\x8b\xff\xff\xff\x7f" + b"\x01" * 100 + b".",
    "an array of no memory": pickle.dumps(
        Raw(*np.empty(0).__reduce__()[:2], (1, (0, 2**61, 2**61), np.dtype("f8"), False, b"")), 2
    ),
    "an empty stack": b"\x80\x02s.",
    "a persistent id": b"\x80\x02K\x01Q.",
}  # fmt: skip


def saved(value: object, **options: object) -> bytes:
    memory = io.BytesIO()
    torch.save(value, memory, **options)
    return memory.getvalue()


def changed(data: bytes, change: Callable[[str, bytes], bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    """An archive whose records were changed."""
    memory = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as source, zipfile.ZipFile(memory, "w", compression) as target:
        for entry in source.infolist():
            target.writestr(entry.filename, change(entry.filename, source.read(entry)))
    return memory.getvalue()


def rebuilt(function: str, *args: object) -> bytes:
    """A file with a tensor made by one of torch's functions."""
    return saved({"model": {"a": Raw(getattr(torch._utils, function), args)}})


def archives() -> dict[str, bytes]:
    plain = saved({"model": {"a": torch.zeros(4)}})
    zeros = saved({"model": {"a": torch.zeros(1 << 22)}})
    storage = torch.zeros(4).untyped_storage()
    typed = torch.storage.TypedStorage(wrap_storage=storage, dtype=torch.float32, _internal=True)
    hooks: OrderedDict = OrderedDict()
    old = saved({"model": {"a": torch.zeros(4)}}, _use_new_zipfile_serialization=False)
    position = old.index(struct.pack("<q", 4) + b"\0" * 16)
    shared = torch.zeros(1 << 20)
    return {
        "one number as 2 GiB": saved({"model": {"a": torch.zeros(1).expand(1 << 29)}}),
        "one tensor under many names": saved({"model": {f"{i}": shared for i in range(1000)}}),
        "a tensor larger than its storage": rebuilt("_rebuild_tensor_v2", typed, 0, (1 << 40,), (1,), False, hooks),
        "a tensor beside its storage": rebuilt("_rebuild_tensor_v2", typed, 4, (1,), (1,), False, hooks),
        "a negative stride": rebuilt("_rebuild_tensor_v2", typed, 3, (4,), (-1,), False, hooks),
        "an overflowing size": rebuilt("_rebuild_tensor_v2", typed, 0, (1 << 61, 0), (1 << 61, 1), False, hooks),
        "an endless list of sizes": rebuilt("_rebuild_tensor_v2", typed, 0, (1,) * 1000, (0,) * 1000, False, hooks),
        "a sparse tensor": saved({"model": {"a": torch.eye(3).to_sparse()}}),
        "a quantized tensor": saved({"model": {"a": torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.quint8)}}),
        "a meta tensor": saved({"model": {"a": torch.empty(3, device="meta")}}),
        "a nested tensor": saved({"model": {"a": torch.nested.nested_tensor([torch.ones(2), torch.ones(3)])}}),
        "a compressed storage": changed(zeros, lambda _, data: data * 16, zipfile.ZIP_DEFLATED),
        "no storage": changed(plain, lambda name, data: data).replace(b"/data/0", b"/data/1"),
        "a storage that is too short": changed(plain, lambda name, data: data[:8] if "/data/" in name else data),
        "a big-endian file": changed(plain, lambda name, data: b"big" if name.endswith("byteorder") else data),
        "an old file of 2^40 numbers": old[:position] + struct.pack("<q", 1 << 40) + old[position + 8 :],
        "an old file of -1 numbers": old[:position] + struct.pack("<q", -1) + old[position + 8 :],
        "an old file cut off": old[:-4],
    }


def write_bombs(folder: Path) -> dict[str, str]:
    """Write the files; their names by what they are."""
    files = {}
    for number, (label, data) in enumerate(PROGRAMS.items()):
        files[label] = f"{number}.pkl"
        (folder / files[label]).write_bytes(data)
        in_archive = changed(saved({}), lambda name, old, data=data: data if name.endswith("data.pkl") else old)
        files[f"{label}, in an archive"] = f"{number}-archive.pth"
        (folder / files[f"{label}, in an archive"]).write_bytes(in_archive)
    for number, (label, data) in enumerate(archives().items()):
        files[label] = f"{number}.pth"
        (folder / files[label]).write_bytes(data)
    return files


def main(folder: Path) -> None:
    from detrex.checkpoint import CheckpointError, read_checkpoint

    mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (mapped + MEMORY,) * 2)
    outcomes = {}
    for path in sorted(folder.iterdir()):
        begin = time.monotonic()
        try:
            checkpoint = read_checkpoint(str(path))
            assert all(isinstance(value, Tensor) for value in checkpoint["model"].values())
            outcome = "read"
        except CheckpointError as error:
            outcome = f"refused: {str(error)[:300]}"
        except BaseException as error:
            outcome = f"{type(error).__name__}: {str(error)[:300]}"
        outcomes[path.name] = (outcome, time.monotonic() - begin)
    print(json.dumps(outcomes))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
