"""Configs as plain values, to be kept inside a file, and back without trusting that file.

A config is a program: a ``_target_`` may name anything that can be called. What comes out of a file may name only what
an allow-list has, and nothing else is imported.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import yaml
from detectron2.utils.registry import locate
from omegaconf import DictConfig, OmegaConf, SCMode

from .renamed import current_target, rename_keys
from .tree import ConfigError

__all__ = ["ALLOWED", "from_plain", "resolved_yaml", "to_plain"]

# Packages (and names) of classes and functions that a file's config may call: parts of detectors, none of which reads
# files, downloads, or looks up names that it is given.
ALLOWED = (
    "detectron2.data.transforms",
    "detectron2.layers",
    "detectron2.modeling.backbone",
    "detrex.data.mapper",
    "detrex.layers",
    "detrex.modeling",
    "functools.partial",
    "projects",
    "torch._C._nn",  # home of some of torch.nn.functional
    "torch.nn.functional",
    "torch.nn.modules",
)
_TARGET, _NAME, _FIELDS = "_target_", "_name_", "_fields_"


# ---------------------------------------------------------------------------------------------------------- writing
def to_plain(node: Any, where: str = "") -> Any:
    """A config, its interpolations resolved, as dicts, lists, strings, numbers, booleans and None.

    Classes and functions become their names: a string as ``_target_``, ``{"_name_": ...}`` elsewhere. A dataclass
    object becomes ``{"_name_": ..., "_fields_": {...}}``.

    Args:
        node: of a config, or a value. where: its key, for messages.

    Raises:
        ConfigError: a value that cannot be written so; names its key.
    """
    if OmegaConf.is_config(node):
        node = OmegaConf.to_container(node, resolve=True, structured_config_mode=SCMode.INSTANTIATE)
    if node is None or isinstance(node, (bool, int, float, str)):
        return node
    if isinstance(node, Mapping):
        plain = {key: to_plain(value, f"{where}.{key}" if where else str(key)) for key, value in node.items()}
        if isinstance(target := plain.get(_TARGET), Mapping) and _FIELDS not in target:
            plain[_TARGET] = target.get(_NAME, target)
        return plain
    if isinstance(node, (list, tuple)):
        return [to_plain(value, f"{where}.{i}") for i, value in enumerate(node)]
    if dataclasses.is_dataclass(node) and not isinstance(node, type):
        fields = {f.name: getattr(node, f.name) for f in dataclasses.fields(node) if f.init}
        return {_NAME: _public_name(type(node), where), _FIELDS: to_plain(fields, where)}
    if isinstance(node, type) or inspect.isroutine(node):
        return {_NAME: _public_name(node, where)}
    raise ConfigError(
        f"{where}: a {type(node).__name__} is neither a plain value nor has it a name, so no file can keep it"
    )


def _public_name(value: Any, where: str) -> str:
    """The shortest name under which it can be imported: it outlives a move of the code."""
    packages = value.__module__.split(".")
    for size in range(1, len(packages) + 1):
        name = ".".join((*packages[:size], value.__qualname__))
        try:
            if locate(name) == value:
                return name
        except Exception:
            continue
    raise ConfigError(f"{where}: {value.__module__}.{value.__qualname__} cannot be imported by that name")


# ---------------------------------------------------------------------------------------------------------- reading
def from_plain(data: Mapping[str, Any], *, allow: Sequence[str] = ()) -> DictConfig:
    """The config that :func:`to_plain` wrote, its targets checked; nothing is called but dataclasses.

    Names of an earlier version become the current ones.

    Args:
        data: from a file that need not be trusted.
        allow: further packages, modules, classes or functions that it may name, such as ``["my_project.modeling"]``.

    Raises:
        ConfigError: a name that is not allowed or not found, or a value that :func:`to_plain` does not write; names
            the key.
    """
    cfg = OmegaConf.create(_decode(data, "", (*ALLOWED, *allow)), flags={"allow_objects": True})
    rename_keys(cfg)
    return cfg


def _decode(value: Any, where: str, allowed: Sequence[str]) -> Any:
    if isinstance(value, str) and "${" in value:
        raise ConfigError(f"{where}: interpolations are not evaluated here, {value!r} has one")
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, list):
        return [_decode(item, f"{where}.{i}", allowed) for i, item in enumerate(value)]
    if not isinstance(value, dict):
        raise ConfigError(f"{where}: a {type(value).__name__} is no plain value")
    if _NAME in value:
        return _decode_named(value, where, allowed)
    decoded = {key: _decode(item, f"{where}.{key}" if where else str(key), allowed) for key, item in value.items()}
    if _TARGET in value:
        _import(value[_TARGET], f"{where}.{_TARGET}", allowed)  # stays a name: omegaconf would take a dataclass apart
    return decoded


def _decode_named(value: Mapping[str, Any], where: str, allowed: Sequence[str]) -> Any:
    found = _import(value[_NAME], where, allowed)
    if _FIELDS not in value:
        return found
    fields = _decode(value[_FIELDS], where, allowed)
    if not (dataclasses.is_dataclass(found) and isinstance(fields, dict)):
        raise ConfigError(f"{where}: {value[_NAME]} with fields is no dataclass")
    try:
        return found(**fields)
    except (TypeError, ValueError) as e:
        raise ConfigError(f"{where}: {value[_NAME]}: {e}") from e


def _import(name: Any, where: str, allowed: Sequence[str]) -> Any:
    """The class or function of a name, if it is defined where that is allowed.

    Only packages on the way to an allowed place are imported, and modules are not searched for what they import
    themselves: ``detrex.modeling.os.system`` is no name of ours.
    """
    if not isinstance(name, str):
        raise ConfigError(f"{where}: {name!r} is not the name of a class or function")
    name = current_target(name)
    found = _find(name, allowed)
    if found is None or locate(name) != found:  # what instantiate would call
        raise ConfigError(
            f"{where}: {name} is not among what a config inside a file may call ({', '.join(allowed)}), or does not "
            "exist here. If you trust the file and have the code, add its package to allow"
        )
    return found


def _find(name: str, allowed: Sequence[str]) -> Any:
    parts = name.split(".")
    for size in range(len(parts) - 1, 0, -1):
        package = ".".join(parts[:size])
        if not any(_within(package, place) or _within(place, package) for place in allowed):
            continue
        try:
            found: Any = importlib.import_module(package)
        except ModuleNotFoundError:
            continue
        for part in parts[size:]:
            if inspect.isclass(found) and not isinstance(
                inspect.getattr_static(found, part, None), (staticmethod, classmethod)
            ):
                return None
            found = getattr(found, part, None)
            if not (inspect.isclass(found) or inspect.isroutine(found)):
                return None
        home = f"{found.__module__}.{found.__qualname__}"
        return found if any(_within(home, place) for place in allowed) else None
    return None


def _within(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


def resolved_yaml(cfg: DictConfig) -> str:
    """The config as people read it: interpolations replaced, callables by name."""

    def plain(value: object) -> object:
        if isinstance(value, dict):
            return {str(k): plain(v) for k, v in value.items()}
        if isinstance(value, (list, tuple)):
            return [plain(v) for v in value]
        if value is None or isinstance(value, (bool, int, float, str)):
            return value
        name = getattr(value, "__qualname__", None)
        return f"{value.__module__}.{name}" if name else str(value)

    return yaml.safe_dump(plain(OmegaConf.to_container(cfg, resolve=True)), sort_keys=False, width=120)
