"""Configs as plain values, to be kept inside a file, and back without trusting that file.

A config is a program: a ``_target_`` may name anything that can be called. What comes out of a file may name only
classes of an allow-list, and nothing is imported or built before all of it is checked.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import yaml
from detectron2.utils.registry import locate
from omegaconf import DictConfig, OmegaConf, SCMode
from torch import nn

from .renamed import current_target, rename_keys
from .tree import ConfigError

__all__ = ["ALLOWED", "from_plain", "resolved_yaml", "to_plain"]

# Where the classes are defined that a file's config may name: parts of detectors, none of which reads files, downloads,
# or looks up names that it is given. A star is one name.
ALLOWED = (
    "detectron2.data.transforms",
    "detectron2.layers",
    "detectron2.modeling.backbone",
    "detrex.data.mapper",
    "detrex.layers",
    "detrex.modeling",
    "projects.*.modeling",
    "torch.nn.modules",
)
# Elsewhere a package has more than parts of models: only its modules and values count.
_MODULES_ONLY = ("detectron2.layers", "detectron2.modeling.backbone", "torch.nn.modules")
# The functions that a file's config may call.
_FUNCTIONS = (
    "detectron2.modeling.backbone.resnet.ResNet.make_default_stages",
    "detrex.modeling.backbone.dilated_resnet.make_dc5_stages",
)
MAX_VALUES, MAX_DEPTH, MAX_NAME = 100_000, 50, 200
_DOTTED = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)+")
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
    names: dict[str, str] = {}
    _check(data, "", 0, names, iter(range(MAX_VALUES)), allow)
    found = {name: _import(name, where, allow) for name, where in names.items()}
    cfg = OmegaConf.create(_decode(data, "", found), flags={"allow_objects": True})
    rename_keys(cfg)
    return cfg


def _check(
    value: Any, where: str, depth: int, names: dict[str, str], left: Iterator[int], allow: Sequence[str]
) -> None:
    """Check a value and all in it by their looks, and note the names in it with the first key of each.

    Raises:
        ConfigError: for what :func:`to_plain` does not write, and for names elsewhere.
    """
    if next(left, None) is None or depth > MAX_DEPTH:
        raise ConfigError(f"{where}: more than {MAX_VALUES} values, or nested more than {MAX_DEPTH} deep")
    if isinstance(value, str) and "${" in value:
        raise ConfigError(f"{where}: interpolations are not evaluated here, {value[:100]!a} has one")
    if value is None or isinstance(value, (bool, float, str)) or (type(value) is int and abs(value) < 2**63):
        return
    if isinstance(value, list):
        for i, item in enumerate(value):
            _check(item, f"{where}.{i}", depth + 1, names, left, allow)
        return
    if not isinstance(value, dict):
        raise ConfigError(f"{where}: a {type(value).__name__} is no plain value")
    if not all(isinstance(key, str) and len(key) <= MAX_NAME for key in value):
        raise ConfigError(f"{where}: a key that is no text, or one of more than {MAX_NAME} characters")
    if _NAME in value and (value.keys() - {_NAME, _FIELDS} or not isinstance(value.get(_FIELDS, {}), dict)):
        raise ConfigError(f"{where}: {_NAME} stands alone, or beside {_FIELDS}, which is a dict")
    for key in (_NAME, _TARGET):
        if key in value:
            place = where if key == _NAME else f"{where}.{key}".lstrip(".")
            names.setdefault(_check_name(value[key], place, allow), place)
    for key, item in value.items():
        _check(item, f"{where}.{key}" if where else key, depth + 1, names, left, allow)


def _check_name(name: Any, where: str, allow: Sequence[str]) -> str:
    """The current name, if a package on the way to it is one to or in an allowed place."""
    if not isinstance(name, str) or len(name) > MAX_NAME or not _DOTTED.fullmatch(name):
        raise ConfigError(f"{where}: {str(name)[:100]!a} is not the name of a class or function")
    name = current_target(name)
    if not list(_packages(name, allow)):
        raise _not_allowed(name, where, allow)
    return name


def _not_allowed(name: str, where: str, allow: Sequence[str]) -> ConfigError:
    places = ", ".join((*ALLOWED, *allow))
    return ConfigError(
        f"{where}: {name} is not among what a config inside a file may call (classes of {places}), or "
        "does not exist here. If you trust the file and have the code, add its package to allow"
    )


def _packages(name: str, allow: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
    """Packages that may be imported for a name, the longest first, and what is looked up in each."""
    parts = name.split(".")
    for size in range(len(parts) - 1, 0, -1):
        package = ".".join(parts[:size])
        if any(_within(package, place) or _within(place, package) for place in (*ALLOWED, *allow)):
            yield package, parts[size:]


def _import(name: str, where: str, allow: Sequence[str]) -> Any:
    """The class or function of a name, if it is defined where that is allowed.

    Only packages on the way to an allowed place are imported, and modules are not searched for what they import
    themselves: ``detrex.modeling.os.system`` is no name of ours.
    """
    found = _find(name, allow)
    if found is None or not _is_allowed(found, allow) or locate(name) != found:  # what instantiate would call
        raise _not_allowed(name, where, allow)
    return found


def _find(name: str, allow: Sequence[str]) -> Any:
    for package, rest in _packages(name, allow):
        try:
            found: Any = importlib.import_module(package)
        except ModuleNotFoundError:
            continue
        for part in rest:
            if inspect.isclass(found) and not isinstance(
                inspect.getattr_static(found, part, None), (staticmethod, classmethod)
            ):
                return None
            found = getattr(found, part, None)
            if not (inspect.isclass(found) or inspect.isroutine(found)):
                return None
        return found
    return None


def _is_allowed(found: Any, allow: Sequence[str]) -> bool:
    home = f"{found.__module__}.{found.__qualname__}"
    if any(_within(home, place) for place in allow) or home in _FUNCTIONS:
        return True
    if not inspect.isclass(found) or not any(_within(home, place) for place in ALLOWED):
        return False
    return (
        not any(_within(home, place) for place in _MODULES_ONLY)
        or issubclass(found, nn.Module)
        or dataclasses.is_dataclass(found)
    )


def _within(name: str, package: str) -> bool:
    parts, places = name.split("."), package.split(".")
    return len(parts) >= len(places) and all(a == b or "*" in (a, b) for a, b in zip(parts, places, strict=False))


def _decode(value: Any, where: str, found: Mapping[str, Any]) -> Any:
    """A value that was checked, its names replaced by what they name; those of targets stay: omegaconf needs them."""
    if isinstance(value, list):
        return [_decode(item, f"{where}.{i}", found) for i, item in enumerate(value)]
    if not isinstance(value, dict):
        return value
    if _NAME not in value:
        return {key: _decode(item, f"{where}.{key}" if where else key, found) for key, item in value.items()}
    made = found[current_target(value[_NAME])]
    if _FIELDS not in value:
        return made
    if not (inspect.isclass(made) and dataclasses.is_dataclass(made)):
        raise ConfigError(f"{where}: {value[_NAME]} with fields is no dataclass")
    try:
        return made(**_decode(value[_FIELDS], where, found))
    except Exception as e:  # its own checks of values
        raise ConfigError(f"{where}: {value[_NAME]}: {e}") from e


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
