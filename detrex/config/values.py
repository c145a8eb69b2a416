"""Types of the values in a config: what a key expects, and values checked against it and converted.

Overrides and config files take the same path. The expected type of a key is, in this order: that in ``KEY_TYPES``, the
annotation in the signature of the node's ``_target_``, the type of the default.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import inspect
import math
import os
import re
import types
import typing
from collections.abc import Collection, Iterable, Mapping
from typing import Annotated, Any, Literal, Optional, Union

import torch
from omegaconf import DictConfig, ListConfig, OmegaConf

from .tree import ConfigError, child_of, keys_of, parameters_of, target_of, walk

__all__ = ["DURATION_KEYS", "EPOCHS", "check_values", "convert", "expected_type", "takes_text"]

DURATION_KEYS = ("max_iter", "warmup", "eval_period", "log_period", "checkpointer.period")
EPOCHS = re.compile(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*ep(?:ochs?)?\s*")

_BOOLEANS = dict.fromkeys(("true", "on", "yes", "y", "1"), True)
_BOOLEANS |= dict.fromkeys(("false", "off", "no", "n", "0"), False)


class _Duration:
    """Iterations, or text such as "12ep"."""


class _UserPath:
    """Text in which a leading ~ is the home folder."""


class _Range(typing.NamedTuple):
    """Bounds of a number, both included."""

    lowest: float
    highest: float = float("inf")


_Names = str | list[str]
_Count = Annotated[int, _Range(1)]
# What a default's type does not tell.
KEY_TYPES: dict[str, Any] = {
    **{f"train.{key}": _Duration for key in DURATION_KEYS},
    "train.accumulate": _Count,
    "train.auto_batch_size.max": _Count,
    "train.checkpoint.reinit": list[str],
    "train.checkpointer.max_to_keep": _Count | None,
    "train.dist_timeout": Annotated[float, _Range(0)],
    "train.ema.decay": Annotated[float, _Range(0, 1)],
    "train.freeze": list[str],
    "train.init_checkpoint": _UserPath,
    "train.max_skips": Annotated[int, _Range(0)],
    "train.optimizations.evaluation": _Names,
    "train.optimizations.training": _Names,
    "train.output_dir": _UserPath,
    "train.seed": Annotated[int, _Range(-float("inf"), 2**32 - 2**16)],  # NumPy's bound, less the number of processes
    "dataloader.train.total_batch_size": Annotated[int | Literal["auto"], _Range(1)],
    "dataloader.data.allow_outside": bool,
    "dataloader.data.class_names": list[str] | None,
    "dataloader.data.eval_split": str,
    "dataloader.data.format": str | None,
    "dataloader.data.image_root": _UserPath | None,
    "dataloader.data.name": str,
    "dataloader.data.root": _UserPath | None,
    "dataloader.data.split_seed": int,
    "dataloader.data.train_json": _UserPath | None,
    "dataloader.data.train_splits": list[str],
    "dataloader.data.val_fraction": Annotated[float, _Range(0, 1)],
    "dataloader.data.val_image_root": _UserPath | None,
    "dataloader.data.val_json": _UserPath | None,
}


class _UnfitError(Exception):
    """A value that is not of the expected type; the message says what is expected."""


# ------------------------------------------------------------------------------------------------- the expected type
def expected_type(cfg: DictConfig, key: str, schema: Mapping[str, Any] = types.MappingProxyType({})) -> Any:
    """The type of the value of ``key``; Any if nothing tells.

    Args:
        cfg: the config.
        key: dotted.
        schema: default of each key that has one, by its dotted name.
    """
    if key in KEY_TYPES:
        return KEY_TYPES[key]
    if key in schema:
        return _type_of_default(schema[key])
    node: Any = cfg
    *path, last = key.split(".")
    for part in path:
        if isinstance(node, ListConfig):
            node = child_of(node, int(part)) if part.isdigit() and int(part) < len(node) else None
        else:
            node = child_of(node, part) if isinstance(node, DictConfig) else None
    parameters = (parameters_of(node, ".".join(path)) or {}) if isinstance(node, DictConfig) else {}
    if last in parameters:
        default = parameters[last].default
        annotations = _annotations(target_of(node, ".".join(path)))
        if last in annotations:
            return Optional[annotations[last]] if default is None else annotations[last]  # noqa: UP045
        return _Like(default)
    return _Like(child_of(node, last) if isinstance(node, DictConfig) and last in node.keys() else None)


class _Like:
    """The type of a value that is not annotated: a number or boolean wants one, other text and lists are left alone."""

    def __init__(self, default: Any):
        self.default = default


def _type_of_default(default: Any) -> Any:
    if isinstance(default, list):
        return list[_type_of_default(default[0])] if default else list
    return type(default) if isinstance(default, (bool, int, float, str)) else Any


@functools.cache
def _annotations(target: Any) -> dict[str, Any]:
    function = inspect.unwrap(target.__init__ if inspect.isclass(target) else target)
    try:
        return typing.get_type_hints(function, include_extras=True)
    except Exception:  # a name that only type checkers import; the other annotations may be whole
        pass
    found = {}
    for name, annotation in getattr(function, "__annotations__", {}).items():
        try:
            found[name] = typing.get_type_hints(
                types.SimpleNamespace(__annotations__={name: annotation}), getattr(function, "__globals__", {})
            )[name]
        except Exception:
            continue
    return found


# -------------------------------------------------------------------------------------------------------- the values
def check_values(cfg: DictConfig, schema: Mapping[str, Any]) -> None:
    """Check the values of a config, and replace text that means a number, a boolean, a list of one or a home folder.

    Args:
        cfg: changed in place.
        schema: default of each key that has one, by its dotted name.

    Raises:
        ConfigError: a value of another type, by its key.
    """
    for path, node in list(walk(cfg)):
        if not isinstance(node, DictConfig) or OmegaConf.get_type(node) is not dict:
            continue
        for part in keys_of(node):
            key = f"{path}.{part}" if path else str(part)
            if part == "_target_" or not (key in KEY_TYPES or key in schema or target_of(node, path)):
                continue
            old = child_of(node, part)
            new = convert(old, expected_type(cfg, key, schema), key)
            if new is not old:
                node[part] = new


def convert(value: Any, expected: Any, key: str, *, text: str | None = None) -> Any:
    """A value as the expected type; the same object if it fits already.

    Args:
        value: plain, or a node of a config.
        expected: from :func:`expected_type`.
        key: for the error.
        text: as typed, for a value that is to be text but was read as another type.

    Raises:
        ConfigError: it does not fit.
    """
    try:
        return _convert(value, expected, text)
    except _UnfitError as e:
        raise ConfigError(f"{key}={text if text is not None else repr(value)}: expected {e}") from None


def takes_text(expected: Any, *, in_list: bool) -> bool:
    """Whether any text is a value of the expected type, or also an entry of one that is a list."""
    try:
        return _convert("any text", expected) in ("any text", ["any text"] if in_list else None)
    except _UnfitError:
        return False


def _convert(value: Any, expected: Any, text: str | None = None) -> Any:
    if _is_left_alone(value):
        return value
    origin, arguments = typing.get_origin(expected), typing.get_args(expected)
    if origin is Annotated:
        return _in_range(_convert(value, arguments[0], text), *arguments[1:])
    if origin in (Union, types.UnionType):
        return _first_that_fits(value, arguments, text)
    if origin is Literal:
        return value if value in arguments else _raise(" or ".join(map(str, arguments)))
    if isinstance(expected, _Like):
        return _like(value, expected.default, text)
    kind = origin or expected
    if kind in _PLAIN:
        return _PLAIN[kind](value, text)
    if kind is Any or not inspect.isclass(kind) or getattr(kind, "_is_protocol", False):
        return value
    if issubclass(kind, Mapping):
        return _mapping(value, arguments)
    if issubclass(kind, Iterable) and not issubclass(kind, (str, enum.Enum, torch.Tensor, torch.nn.Module)):
        return _sequence(value, kind, arguments)
    return _instance(value, kind)


def _is_left_alone(value: Any) -> bool:
    """A call or reference, whose result is unknown; a value still to be given; an object."""
    if isinstance(value, str):
        return "${" in value or value == "???"
    if isinstance(value, (DictConfig, Mapping)):
        return "_target_" in value or (isinstance(value, DictConfig) and OmegaConf.get_type(value) is not dict)
    return not (value is None or isinstance(value, (bool, int, float, list, tuple, ListConfig)))


def _raise(expected: str) -> typing.NoReturn:
    raise _UnfitError(expected)


def _boolean(value: Any, text: str | None) -> bool:
    if isinstance(value, bool):
        return value
    result = _BOOLEANS.get(str(value).lower())
    return _raise("true or false") if result is None else result


def _number(value: Any, text: str | None, expected: str = "a number") -> int | float:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return value
    try:
        return float(value) if isinstance(value, str) else _raise(expected)
    except ValueError:
        return _raise(expected)


def _whole_number(value: Any, text: str | None) -> int:
    number = _number(value, text, "a whole number")
    if isinstance(number, float):
        return int(number) if number.is_integer() else _raise("a whole number")
    return number


def _text(value: Any, text: str | None) -> str:
    if isinstance(value, str):
        return value
    if value is not None and text is not None:
        return text
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return str(value)
    raise _UnfitError("text")


def _duration(value: Any, text: str | None) -> int | str:
    if isinstance(value, str) and EPOCHS.fullmatch(value):
        return value
    try:
        return _in_range(_whole_number(value, text), _Range(0))
    except _UnfitError:
        raise _UnfitError('a duration: iterations (5000) or epochs ("12ep", "0.5ep")') from None


def _user_path(value: Any, text: str | None) -> str:
    path = _text(value, text)
    expanded = os.path.expanduser(path)
    return path if expanded == path else expanded


def _nothing(value: Any, text: str | None) -> None:
    return value if value is None else _raise("null")


_PLAIN = {
    bool: _boolean,
    int: _whole_number,
    float: _number,
    str: _text,
    type(None): _nothing,
    _Duration: _duration,
    _UserPath: _user_path,
}


def _in_range(value: Any, *metadata: Any) -> Any:
    for bounds in metadata:
        if isinstance(bounds, _Range) and isinstance(value, (int, float)):
            lowest, highest = bounds
            if not lowest <= value <= highest:
                raise _UnfitError(_describe_range(lowest, highest))
    return value


def _first_that_fits(value: Any, kinds: Collection[Any], text: str | None) -> Any:
    """``value`` itself if any of the types has it, else as the first type that it can become; as text last."""
    converted, expected = [], []
    for kind in sorted(kinds, key=lambda kind: kind in (str, _UserPath)):
        try:
            converted.append(_convert(value, kind, text))
        except _UnfitError as e:
            expected.append(str(e))
    for result in converted:
        if result is value:
            return value
    return converted[0] if converted else _raise(" or ".join(dict.fromkeys(expected)))


def _mapping(value: Any, arguments: Collection[Any]) -> Any:
    if not isinstance(value, (Mapping, DictConfig)):
        raise _UnfitError("a section")
    if len(arguments) != 2:
        return value
    return _replaced(value, dict.fromkeys(value, arguments[1]))


def _sequence(value: Any, kind: type, arguments: Collection[Any]) -> Any:
    if value is None or isinstance(value, (Mapping, DictConfig)):
        raise _UnfitError("a list")
    fixed = issubclass(kind, tuple) and arguments and arguments[-1] is not Ellipsis
    if not isinstance(value, (list, tuple, ListConfig)):
        value = [value]
    if fixed and len(value) != len(arguments):
        raise _UnfitError(f"a list of {len(arguments)}")
    kinds = arguments if fixed else [next(iter(arguments), Any)] * len(value)
    return _replaced(value, dict(enumerate(kinds)))


def _replaced(value: Any, kinds: Mapping[Any, Any]) -> Any:
    """A container with its parts converted to these types; itself if all fit."""
    changed = {}
    for key, kind in kinds.items():
        old = child_of(value, key) if OmegaConf.is_config(value) else value[key]
        new = _convert(old, kind)
        if new is not old:
            changed[key] = new
    if not changed:
        return value
    value = list(value) if isinstance(value, tuple) else value.copy()
    for key, part in changed.items():
        value[key] = part
    return value


def _instance(value: Any, kind: type) -> Any:
    """A plain value where an object belongs: right for what a text can stand for, such as paths and devices."""
    nameless = dataclasses.is_dataclass(kind) or issubclass(kind, (torch.Tensor, torch.nn.Module))
    if isinstance(value, kind) or (isinstance(value, str) and not nameless):
        return value
    if isinstance(value, (Mapping, DictConfig)) and not issubclass(kind, torch.Tensor):
        return value
    raise _UnfitError("a number" if issubclass(kind, torch.Tensor) else f"a {kind.__name__}")


def _like(value: Any, default: Any, text: str | None) -> Any:
    if isinstance(default, str) and not isinstance(value, str) and text is not None and value is not None:
        return text
    if isinstance(default, (ListConfig, list, tuple)) and isinstance(value, (str, int, float)):
        return [value]
    if isinstance(value, str) and isinstance(default, (bool, int, float)):
        return _boolean(value, text) if isinstance(default, bool) else _number(value, text)
    return value


def _describe_range(lowest: float, highest: float) -> str:
    if math.isinf(lowest):
        return f"a number of at most {highest:.12g}"
    if math.isinf(highest):
        return f"a number of at least {lowest:.12g}"
    return f"a number from {lowest:.12g} to {highest:.12g}"
