"""Pickles read as data: plain values, arrays and tensors. Nothing that a pickle names is imported or called.

A pickle is a program. This reader knows the few instructions and the few names that weights need; each name stands for
a function of this file, which checks what it is given. Memory and time are bounded by the size of the file.
"""

from __future__ import annotations

import argparse
import math
import pickle
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import torch
from torch import Tensor

from .dialects.errors import CheckpointError

__all__ = ["Inert", "Stored", "finish", "read_pickle"]

MAX_STEPS = 4_000_000  # instructions of a pickle, and values of what it makes: a list inside two others counts twice
MAX_DEPTH = 100
MAX_NAME = 500  # characters of a class or function
MAX_KEY = 4096  # characters of a key
VALUE = 64  # bytes that a value in a container may take
SLACK = 64 << 20  # bytes that a tiny file may unpack to


class Inert:
    """Stands for an object whose code is not wanted; has the state it was saved with as attributes."""

    def __init__(self, *args: Any) -> None:
        self.args = args


class Storage(NamedTuple):
    """The numbers of one or more tensors, which are outside the pickle."""

    key: str
    dtype: torch.dtype


@dataclass(frozen=True, eq=False)
class Stored:
    """A tensor whose numbers are outside the pickle; ``offset`` and ``stride`` count elements."""

    key: str
    dtype: torch.dtype
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]

    @property
    def end(self) -> int:
        """Bytes of the storage up to the last element."""
        last = sum((size - 1) * stride for size, stride in zip(self.size, self.stride, strict=True))
        return (self.offset + last + 1) * self.dtype.itemsize if math.prod(self.size) else 0

    def view(self, data: Tensor | None) -> Tensor:
        """The tensor in the bytes of its storage, or one on the meta device.

        Args:
            data: all bytes of the storage (N,) uint8.

        Raises:
            CheckpointError: the storage has fewer bytes.
        """
        if data is None:
            return torch.empty_strided(self.size, self.stride, dtype=self.dtype, device="meta")
        if self.end > len(data):
            raise CheckpointError(f"has a tensor of {list(self.size)} that ends outside of its {len(data)} bytes")
        return torch.empty(0, dtype=self.dtype).set_(data.untyped_storage(), self.offset, self.size, self.stride)


class _Array:
    """Stands for a numpy array until its state is known."""

    value: np.ndarray | None = None


class _Type:
    """Stands for ``numpy.dtype``; numbers of a fixed size only, for objects are read by their address."""

    def __init__(self, code: Any) -> None:
        if not isinstance(code, str) or not re.fullmatch(r"b1|[iu][1248]|f[248]|c8|c16", code):
            raise CheckpointError(f"holds an array of {str(code)[:20]!a}; only numbers of a fixed size can be read")
        self.dtype = np.dtype(code)


@dataclass(frozen=True)
class _Callable:
    """What a pickle may call: ``make(spend, *args)``, where ``spend(n)`` accounts for n bytes."""

    make: Callable[..., Any]


# --------------------------------------------------------------------------------------------------- what names mean
def _encode(spend: Callable, text: str, codec: str) -> bytes:
    """Bytes, as protocol 2 writes them."""
    if codec != "latin1" or not isinstance(text, str):
        raise pickle.UnpicklingError("_codecs.encode is not of text to latin1")
    spend(len(text))
    return text.encode("latin1")


def _mapping(spend: Callable, items: Any = (), *_: Any) -> dict:
    """A dict of any class: of a dict, of a list of pairs, or to be filled later."""
    if isinstance(items, (dict, list, tuple)):
        spend(VALUE * len(items))
        return {_key(key): value for key, value in (items.items() if isinstance(items, dict) else items)}
    return {}  # the factory of a defaultdict


def _set(spend: Callable, items: Any = ()) -> set:
    spend(VALUE * len(items))
    return {_key(item) for item in items}


def _tensor(spend: Callable, storage: Any, offset: Any, size: Any, stride: Any, *rest: Any) -> Stored:
    if not isinstance(storage, Storage) or type(size) is not tuple or type(stride) is not tuple:
        raise pickle.UnpicklingError("a tensor without storage, size or stride")
    numbers = (offset, *size, *stride)
    if len(size) != len(stride) or len(size) > 25 or not all(type(n) is int and 0 <= n < 2**62 for n in numbers):
        raise pickle.UnpicklingError("a tensor of an impossible offset, size or stride")
    dtype = rest[2] if len(rest) > 2 and isinstance(rest[2], torch.dtype) else storage.dtype
    return Stored(storage.key, dtype, offset, size, stride)


def _same_tensor(spend: Callable, data: Any, *_: Any) -> Any:
    """A parameter, which is saved as its tensor."""
    return data


def _tensor_of_type(spend: Callable, function: Any, kind: Any, args: Any, *_: Any) -> Any:
    """A tensor with attributes of its own."""
    if not isinstance(function, _Callable) or function.make not in (_tensor, _same_tensor):
        raise pickle.UnpicklingError("a tensor made by another function")
    return function.make(spend, *args)


def _numpy_array(spend: Callable, shape: Any, stored: Any, data: Any, order: str) -> np.ndarray:
    data = data.encode("latin1") if isinstance(data, str) else data  # of Python 2
    if not isinstance(stored, _Type) or not isinstance(data, bytes) or type(shape) is not tuple or len(shape) > 25:
        raise pickle.UnpicklingError("an array without type, shape or data")
    sizes = all(type(n) is int and 0 <= n < 2**62 for n in shape)
    if not sizes or math.prod(shape) * stored.dtype.itemsize != len(data):
        raise CheckpointError(f"holds an array of shape {str(shape)[:100]} whose data are {len(data)} bytes")
    spend(len(data))
    values = np.frombuffer(data, stored.dtype).astype(stored.dtype.newbyteorder("="))  # a copy, which can be written
    return values.reshape(shape, order=order)


def _scalar(spend: Callable, stored: Any, data: Any) -> np.generic:
    return _numpy_array(spend, (1,), stored, data, "C")[0]


def _from_buffer(spend: Callable, data: Any, stored: Any, shape: Any, order: Any) -> np.ndarray:
    return _numpy_array(spend, shape, stored, data, "F" if order == "F" else "C")


def _refuse_tensor(kind: str) -> _Callable:
    def refuse(*_: Any) -> None:
        raise CheckpointError(f"holds a {kind} tensor; only dense tensors with data can be read")

    return _Callable(refuse)


_CORES = ("numpy.core", "numpy._core")  # numpy 1 and 2
# mmengine saves its history of losses and, in it, names of functions as getattr(HistoryBuffer, "mean").
_INERT = (
    *("builtins.getattr", "torch.Tensor", "torch.nn.parameter.Parameter", "numpy.ndarray"),
    *("mmengine.logging.history_buffer.HistoryBuffer", "mmengine.logging.message_hub.MessageHub"),
)
_DICTS = (
    *("collections.OrderedDict", "collections.defaultdict", "collections.Counter"),
    *("addict.addict.Dict", "easydict.EasyDict", "mmcv.utils.config.ConfigDict", "mmengine.config.config.ConfigDict"),
    *("lightning_fabric.utilities.data.AttributeDict", "lightning.fabric.utilities.data.AttributeDict"),
    "pytorch_lightning.utilities.parsing.AttributeDict",
)
_PATHS = ("pathlib.PosixPath", "pathlib.WindowsPath", "pathlib._local.PosixPath", "pathlib._local.WindowsPath")
_OTHER_TENSORS = {
    "sparse_tensor": "sparse",
    "qtensor": "quantized",
    "nested_tensor": "nested",
    "meta_tensor_no_storage": "meta",
    "wrapper_subclass": "subclassed",
}
_NAMES: dict[str, Any] = {
    "_codecs.encode": _Callable(_encode),
    "argparse.Namespace": _Callable(lambda spend: argparse.Namespace()),  # official files keep their command line
    "builtins.bytes": _Callable(lambda spend: b""),
    "builtins.set": _Callable(_set),
    "torch.Size": _Callable(lambda spend, size: tuple(size)),
    "torch.device": _Callable(lambda spend, kind, *index: ":".join(map(str, (kind, *index)))),
    "torch._utils._rebuild_tensor": _Callable(_tensor),
    "torch._utils._rebuild_tensor_v2": _Callable(_tensor),
    "torch._utils._rebuild_tensor_v3": _Callable(_tensor),
    "torch._utils._rebuild_parameter": _Callable(_same_tensor),
    "torch._utils._rebuild_parameter_with_state": _Callable(_same_tensor),
    "torch._tensor._rebuild_from_type_v2": _Callable(_tensor_of_type),
    "numpy.dtype": _Callable(lambda spend, code, *flags: _Type(code)),
    "torch.serialization._get_layout": _refuse_tensor("sparse"),
    **{f"torch._utils._rebuild_{name}": _refuse_tensor(kind) for name, kind in _OTHER_TENSORS.items()},
    **{f"{core}.multiarray._reconstruct": _Callable(lambda spend, *args: _Array()) for core in _CORES},
    **{f"{core}.multiarray.scalar": _Callable(_scalar) for core in _CORES},
    **{f"{core}.numeric._frombuffer": _Callable(_from_buffer) for core in _CORES},
    **{name: _Callable(lambda spend, *args: Inert(*args)) for name in _INERT},
    **{name: _Callable(_mapping) for name in _DICTS},
    **{name: _Callable(lambda spend, *parts: "/".join(map(str, parts))) for name in _PATHS},
    **{str(dtype): dtype for dtype in vars(torch).values() if isinstance(dtype, torch.dtype)},
}
_STORAGES = {
    "Double": torch.float64,
    "Float": torch.float32,
    "Half": torch.float16,
    "BFloat16": torch.bfloat16,
    "Long": torch.int64,
    "Int": torch.int32,
    "Short": torch.int16,
    "Char": torch.int8,
    "Byte": torch.uint8,
    "Bool": torch.bool,
    "ComplexDouble": torch.complex128,
    "ComplexFloat": torch.complex64,
    "Untyped": torch.uint8,
}
_NAMES |= {
    f"{module}.{kind}Storage": dtype
    for kind, dtype in _STORAGES.items()
    for module in ("torch", "torch.cuda", "torch.storage")
}


def _key(key: Any) -> Any:
    """A key of a dict, if no file can make many of equal hash."""
    if isinstance(key, (str, bytes)):
        fits = len(key) <= MAX_KEY
    else:
        fits = key is None or isinstance(key, (bool, float)) or (type(key) is int and -(2**60) < key < 2**60)
    if not fits:
        raise pickle.UnpicklingError(f"a key of type {type(key).__name__}, or too long")
    return key


# ------------------------------------------------------------------------------------------------------ the program
class _Instructions:
    """The functions of the known instructions by their code; counts."""

    def __init__(self, table: Mapping[int, Callable]) -> None:
        self.table, self.left = table, MAX_STEPS

    def __getitem__(self, code: int) -> Callable:
        self.left -= 1
        if self.left < 0:
            raise CheckpointError(f"has a pickle of more than {MAX_STEPS} instructions")
        if code not in self.table:
            raise pickle.UnpicklingError(f"an instruction that weights do not need: {code}")
        return self.table[code]


class _Unpickler(pickle._Unpickler):
    """Python's own unpickler, whose instructions that make or change objects are replaced.

    Args:
        file: with ``read`` and ``readline``.
        budget: bytes that calls may make.
        storages: filled with the types of those that the pickle names.
    """

    def __init__(self, file: Any, budget: int, storages: dict[str, torch.dtype]) -> None:
        super().__init__(file, encoding="latin1")
        self.dispatch = _Instructions(_TABLE)
        self.budget, self.storages = budget, storages

    def spend(self, amount: int) -> None:
        """Account for bytes that a call makes of others, which a file may do again and again."""
        self.budget -= amount
        if self.budget < 0:
            raise CheckpointError("has a pickle that makes far more than its own size")

    def find_class(self, module: str, name: str) -> Any:
        if len(module) + len(name) > MAX_NAME:
            raise pickle.UnpicklingError(f"refused to import {module[:50]!a}..., a name of {len(module + name)}")
        full = f"{module.replace('__builtin__', 'builtins')}.{name}"
        if re.fullmatch(r"torch\.Q\w+Storage", full):
            _refuse_tensor("quantized").make()
        if full not in _NAMES:
            raise pickle.UnpicklingError(f"refused to import {ascii(full)[1:-1]}")
        return _NAMES[full]

    def persistent_load(self, pid: Any) -> Storage:
        """Of ("storage", type, key, location, number of elements) and, in old files, what part of another it is."""
        if not isinstance(pid, tuple) or len(pid) not in (5, 6) or pid[0] != "storage" or any(pid[5:]):
            raise pickle.UnpicklingError("a reference to something other than a storage")
        _, dtype, key, *_ = pid
        if not isinstance(dtype, torch.dtype) or not isinstance(key, str):
            raise pickle.UnpicklingError("a storage without type or key")
        self.storages[_key(key)] = dtype
        return Storage(key, dtype)

    def call(self, function: Any, args: Any) -> Any:
        if not isinstance(function, _Callable) or not isinstance(args, tuple):
            raise pickle.UnpicklingError(f"refused to call a {type(function).__name__}")
        return function.make(self.spend, *args)

    def load_reduce(self) -> None:
        args = self.stack.pop()
        self.stack[-1] = self.call(self.stack[-1], args)

    def load_newobj_ex(self) -> None:
        if self.stack.pop():
            raise pickle.UnpicklingError("refused an object with named arguments")
        self.load_reduce()

    def load_build(self) -> None:
        state, made = self.stack.pop(), self.stack[-1]
        if isinstance(made, _Type):
            if not isinstance(state, tuple) or len(state) < 2:
                raise pickle.UnpicklingError("a numpy type of another state")
            if state[1] in ("<", ">"):
                made.dtype = made.dtype.newbyteorder(state[1])
        elif isinstance(made, _Array):
            _, shape, stored, fortran, data = state
            made.value = _numpy_array(self.spend, shape, stored, data, "F" if fortran else "C")
        elif isinstance(made, (Inert, argparse.Namespace)):
            state = state[0] if isinstance(state, tuple) and state else state  # and the values of slots
            if not isinstance(state, dict) or not all(isinstance(name, str) for name in state):
                raise pickle.UnpicklingError("an object of another state")
            self.spend(VALUE * len(state))
            vars(made).update(state)
        elif not isinstance(made, dict):  # attributes of a dict, such as those of state_dict(), are not needed
            raise pickle.UnpicklingError(f"refused a state for a {type(made).__name__}")

    def _container(self, kind: type) -> Any:
        if type(self.stack[-1]) is not kind:
            raise pickle.UnpicklingError(f"a {kind.__name__} is needed, not a {type(self.stack[-1]).__name__}")
        return self.stack[-1]

    def load_append(self) -> None:
        value = self.stack.pop()
        self._container(list).append(value)

    def load_appends(self) -> None:
        items = self.pop_mark()
        self._container(list).extend(items)

    def load_setitem(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._container(dict)[_key(key)] = value

    def load_setitems(self) -> None:
        items = self.pop_mark()
        self._container(dict).update(zip(map(_key, items[::2]), items[1::2], strict=True))

    def load_dict(self) -> None:
        items = self.pop_mark()
        self.append(dict(zip(map(_key, items[::2]), items[1::2], strict=True)))

    def load_additems(self) -> None:
        items = self.pop_mark()
        self._container(set).update(map(_key, items))

    def load_frozenset(self) -> None:
        self.append(frozenset(map(_key, self.pop_mark())))

    def load_put(self) -> None:
        index = int(self.readline()[:20])
        if not 0 <= index < 2**32:
            raise pickle.UnpicklingError("an impossible place in the memo")
        self.memo[index] = self.stack[-1]

    def load_bytearray8(self) -> None:
        """As bytes: an array's data are copied anyway."""
        self.load_binbytes8()


# Without those for other persistent ids, registered extensions, old-style classes, buffers elsewhere and huge integers.
_NO = ["PERSID", "EXT1", "EXT2", "EXT4", "INST", "OBJ", "NEXT_BUFFER", "READONLY_BUFFER", "LONG4"]
_REPLACED = {
    "REDUCE": "reduce",
    "NEWOBJ": "reduce",
    "NEWOBJ_EX": "newobj_ex",
    "BUILD": "build",
    "APPEND": "append",
    "APPENDS": "appends",
    "SETITEM": "setitem",
    "SETITEMS": "setitems",
    "DICT": "dict",
    "ADDITEMS": "additems",
    "FROZENSET": "frozenset",
    "PUT": "put",
    "BYTEARRAY8": "bytearray8",
}
_TABLE: dict[int, Callable] = {
    **{
        code: load
        for code, load in pickle._Unpickler.dispatch.items()
        if code not in [getattr(pickle, n)[0] for n in _NO]
    },
    **{getattr(pickle, name)[0]: getattr(_Unpickler, f"load_{method}") for name, method in _REPLACED.items()},
}


class _Bounded:
    """A file that is never asked for more than it has, for Python makes room for all that it is asked for."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self.file, self.size, self.readline = file, size, file.readline

    def read(self, count: int) -> bytes:
        return self.file.read(count if count < 1 << 16 else max(0, min(count, self.size - self.file.tell())))


def read_pickle(file: BinaryIO, size: int, storages: dict[str, torch.dtype] | None = None) -> Any:
    """What the pickle at the position of a file makes, with stand-ins for tensors and arrays; see :func:`finish`.

    Args:
        file: its position is that after the pickle in the end.
        size: bytes of the file.
        storages: filled with the types of the storages that the pickle names.

    Raises:
        CheckpointError: beyond one of the limits, or a tensor of another kind; without the name of the file.
        Exception: anything else, for bytes that are no such pickle.
    """
    return _Unpickler(_Bounded(file, size), 2 * size + SLACK, {} if storages is None else storages).load()


# ------------------------------------------------------------------------------------------------------- the result
class _Size(NamedTuple):
    """A finished value, and what it is as a tree: values, and bytes of tensors."""

    value: Any
    values: int
    bytes: int


def finish(root: Any, view: Callable[[Stored], Tensor], size: int) -> Any:
    """Replace stand-ins by tensors and arrays, after measuring what a reader of the result will walk through.

    Args:
        root: of :func:`read_pickle` or of json. view: makes a tensor.
        size: bytes of the file.

    Raises:
        CheckpointError: values that contain themselves, are nested too deeply or, walked through as a tree, are too
            many; tensors that repeat their numbers until they are far larger than the file.
    """
    limit, known, open_ids = 8 * size + SLACK, {}, set()

    def visit(value: Any, depth: int) -> _Size:
        if isinstance(value, (str, bytes)):
            return _Size(value, 1 + len(value) // 64, 0)
        if not isinstance(value, (dict, list, tuple, set, frozenset, Inert, argparse.Namespace, Stored, _Array)):
            return _Size(value, 1, value.nbytes if isinstance(value, np.ndarray) else 0)
        if id(value) in known:
            return known[id(value)]
        if id(value) in open_ids or depth > MAX_DEPTH:
            raise CheckpointError(f"holds values that contain themselves, or are nested more than {MAX_DEPTH} deep")
        open_ids.add(id(value))
        known[id(value)] = result = visit_container(value, depth + 1)
        open_ids.discard(id(value))
        if result.values > MAX_STEPS:
            raise CheckpointError(f"holds more than {MAX_STEPS} values: lists or dicts that repeat each other")
        if result.bytes > limit:
            raise CheckpointError(f"holds tensors of more than {limit} bytes that repeat fewer numbers")
        return result

    def visit_container(value: Any, depth: int) -> _Size:
        if isinstance(value, Stored):
            count = math.prod(value.size) * value.dtype.itemsize
            return _Size(view(value) if count <= limit else None, 1, count)
        if isinstance(value, _Array):
            if value.value is None:
                raise pickle.UnpicklingError("an array without state")
            return _Size(value.value, 1, value.value.nbytes)
        parts = value if isinstance(value, (dict, list, tuple, set, frozenset)) else vars(value)
        sizes = [visit(item, depth) for item in (parts.values() if isinstance(parts, dict) else parts)]
        items = [size.value for size in sizes]
        if isinstance(parts, dict):
            new: Any = dict(zip(parts, items, strict=True))
            if parts is not value:
                vars(value).update(new)
                new = value
        else:
            new = type(parts)(items)
        keys = sum(len(key) for key in parts if isinstance(key, (str, bytes))) // 64 if isinstance(parts, dict) else 0
        return _Size(new, 1 + keys + sum(size.values for size in sizes), sum(size.bytes for size in sizes))

    return visit(root, 0).value
