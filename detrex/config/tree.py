"""A config as a tree: its errors, its nodes as they are written, and the parameters of what they call."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator
from typing import Any

from detectron2.utils.registry import locate
from omegaconf import DictConfig, ListConfig

__all__ = ["ConfigError", "ConfigKeyError", "child_of", "keys_of", "parameters_of", "target_of", "walk"]


class ConfigError(ValueError):
    """A config, an override or a file that a config names is wrong; the message says which and what to do."""


class ConfigKeyError(ConfigError, KeyError):
    """A key that nothing reads, with the nearest one that something does."""

    def __str__(self) -> str:  # KeyError's own __str__ would print the repr, quotes and all
        return str(self.args[0])


def child_of(node: DictConfig | ListConfig, key: Any) -> Any:
    """A child as written: interpolations and missing values come back as their text, not resolved."""
    child = node._get_node(key)
    if isinstance(child, (DictConfig, ListConfig)) and not (child._is_interpolation() or child._is_none()):
        return child
    return None if child is None else child._value()


def keys_of(node: Any) -> Iterable[Any]:
    """Keys of a section, indices of a list; nothing for a value."""
    if isinstance(node, ListConfig):
        return range(len(node))
    return list(node) if isinstance(node, DictConfig) else ()


def walk(node: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every (dotted key, node or value) of a config tree, parents first."""
    yield path, node
    for key in keys_of(node):
        yield from walk(child_of(node, key), f"{path}.{key}" if path else str(key))


def target_of(node: Any, path: str = "") -> Any:
    """What a node calls, imported; None if it calls nothing.

    Raises:
        ConfigError: the target is a name that cannot be imported.
    """
    target = child_of(node, "_target_") if isinstance(node, DictConfig) and "_target_" in node.keys() else None
    if isinstance(target, str):
        try:
            target = locate(target)
        except Exception as e:
            raise ConfigError(f"{path}._target_: cannot import {target!r}: {e}") from e
    return target if callable(target) else None


def parameters_of(node: DictConfig, path: str = "") -> dict[str, inspect.Parameter] | None:
    """Parameters of the node's ``_target_`` by name; None if it has no target, or the target no signature.

    Raises:
        ConfigError: if the target is a name that cannot be imported.
    """
    target = target_of(node, path)
    try:
        return None if target is None else dict(inspect.signature(target).parameters)
    except (TypeError, ValueError):  # some built-in callables tell nothing about themselves
        return None
