"""YAML for configs that hold Python objects: written as detectron2 writes them, read without running code.

Readable tags are those that only describe data: names (``!!python/name:torch.nn.GELU``), dataclasses
(``!!python/object:``), tuples, enum members, paths, ``functools.partial`` and ``OrderedDict``. Anything else is an
error, where an unsafe loader would call whatever the file names.
"""

import dataclasses
import enum
import functools
import pathlib
import sys
import types
from collections import OrderedDict
from typing import Any

import yaml
from detectron2.utils.registry import _convert_target_to_string, locate

_TAG = "tag:yaml.org,2002:python/"
# Importing a module runs it, so a file may only lead into packages that are in use already, or that configs are about.
_PACKAGES = frozenset({"detectron2", "detrex", "fvcore", "numpy", "projects", "timm", "torch", "torchvision"})


def dump(container: Any) -> str:
    """Return ``container`` as YAML, callables by the shortest path that imports them."""
    return yaml.dump(container, Dumper=_Dumper, default_flow_style=None, allow_unicode=True, width=9999)


def load(stream: Any) -> Any:
    """Read YAML written by :func:`dump` or by the full detectron2.

    Raises:
        yaml.YAMLError: malformed, or a tag that would import an unknown package or run code; with file and line.
    """
    return yaml.load(stream, Loader=_Loader)


class _Dumper(yaml.Dumper):
    """Adds the objects that yaml cannot or should not write by itself."""


def _represent_name(dumper: yaml.Dumper, value: Any) -> yaml.Node:
    return dumper.represent_scalar(f"{_TAG}name:{_convert_target_to_string(value)}", "")


def _represent_object(dumper: yaml.Dumper, value: Any) -> yaml.Node:
    kind = type(value)
    if kind.__module__ == "torch" and kind.__name__ in ("dtype", "layout", "memory_format"):
        return dumper.represent_scalar(f"{_TAG}name:{value}", "")
    return dumper.represent_object(value)


_Dumper.add_representer(types.FunctionType, _represent_name)
_Dumper.add_representer(types.BuiltinFunctionType, _represent_name)
_Dumper.add_multi_representer(type, _represent_name)
_Dumper.add_multi_representer(object, _represent_object)


class _Loader(yaml.SafeLoader):
    """SafeLoader and the descriptive tags."""


def _error(node: yaml.Node, problem: str) -> yaml.constructor.ConstructorError:
    return yaml.constructor.ConstructorError(None, None, problem, node.start_mark)


def _resolve(node: yaml.Node, name: str) -> Any:
    root = name.partition(".")[0]
    if root not in _PACKAGES and root not in sys.modules:
        raise _error(node, f"the config refers to {name!r}; import {root!r} before loading it if you trust the file")
    try:
        return locate(name)
    except ImportError as error:
        raise _error(node, str(error)) from error


def _construct_tuple(loader: _Loader, node: yaml.Node) -> tuple[Any, ...]:
    return tuple(loader.construct_sequence(node, deep=True))


def _construct_dataclass(loader: _Loader, name: str, node: yaml.Node) -> Any:
    cls = _resolve(node, name)
    if not (isinstance(cls, type) and dataclasses.is_dataclass(cls)):
        raise _error(node, f"{name} is not a dataclass; only dataclasses can be stored as objects in a YAML config")
    instance = cls.__new__(cls)
    # As unpickling does it: the stored state is restored, __init__ and __post_init__ do not run.
    for key, value in loader.construct_mapping(node, deep=True).items():
        object.__setattr__(instance, key, value)
    return instance


def _construct_call(loader: _Loader, name: str, node: yaml.Node) -> Any:
    function = _resolve(node, name)
    # Constructors that do nothing but hold their arguments.
    harmless = isinstance(function, type) and issubclass(function, (enum.Enum, pathlib.PurePath))
    if not harmless and function not in (OrderedDict, functools.partial):
        raise _error(node, f"reading a YAML config does not call {name}; describe the call as '_target_: {name}'")
    if isinstance(node, yaml.SequenceNode):
        return function(*loader.construct_sequence(node, deep=True))
    call = loader.construct_mapping(node, deep=True)
    if function is functools.partial:
        wrapped, args, keywords, _ = call["state"]
        return functools.partial(wrapped, *args, **keywords)
    return function(*call.get("args", ()), **call.get("kwds", {}))


_Loader.add_constructor(f"{_TAG}tuple", _construct_tuple)
_Loader.add_multi_constructor(f"{_TAG}name:", lambda loader, name, node: _resolve(node, name))
_Loader.add_multi_constructor(f"{_TAG}object:", _construct_dataclass)
_Loader.add_multi_constructor(f"{_TAG}object/apply:", _construct_call)
_Loader.add_multi_constructor(f"{_TAG}object/new:", _construct_call)
