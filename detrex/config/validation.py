"""What a config says, checked against what reads it: targets' signatures and the ``train`` schema. Nothing is built."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Collection, Iterator

from detectron2.utils.registry import locate
from omegaconf import DictConfig, ListConfig

from .renamed import ARGUMENTS, TRAIN_KEYS
from .tree import ConfigError, ConfigKeyError, child_of, parameters_of, walk

__all__ = [
    "ConfigError",
    "ConfigKeyError",
    "check_key",
    "check_section",
    "check_targets",
    "not_importable",
]


def check_key(cfg: DictConfig, key: str) -> None:
    """Check that ``key`` exists in ``cfg`` or is a parameter of its node's ``_target_``.

    Raises:
        ConfigKeyError: with a suggestion.
    """
    node, path = cfg, ""
    for part in key.split("."):
        if isinstance(node, ListConfig):
            if not part.isdigit() or int(part) >= len(node):
                raise ConfigKeyError(f"unknown key {key!r}: {path} is a list with entries 0 to {len(node) - 1}")
            node = child_of(node, int(part))
        elif isinstance(node, DictConfig):
            if part not in node.keys():  # "in node" denies keys whose value is still ???
                known = parameters_of(node, path) or {}
                if part in known or not node.keys():
                    return  # an empty section takes anything; what is set below a parameter, its target judges
                raise ConfigKeyError(_unknown(cfg, key, path, part, {*node, *known}))
            node = child_of(node, part)
        else:
            raise ConfigKeyError(f"unknown key {key!r}: {path} is a value ({node!r}), not a section")
        path = f"{path}.{part}" if path else part


def check_targets(cfg: DictConfig) -> None:
    """Check the keys of every node with a ``_target_`` against its signature.

    Raises:
        ConfigKeyError: an argument that the target does not take. ConfigError: a target that cannot be imported.
    """
    for path, node in walk(cfg):
        parameters = parameters_of(node, path) if isinstance(node, DictConfig) else None
        if parameters is None or any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
            continue
        for part in node:
            if part not in parameters and part != "_target_":
                raise ConfigKeyError(_unknown(cfg, f"{path}.{part}" if path else part, path, part, parameters))


def check_section(cfg: DictConfig, given: DictConfig, schema: DictConfig, path: str) -> None:
    """Check that ``given``, the section of ``cfg`` at ``path``, has no key that ``schema`` lacks.

    An empty mapping in the schema stands for anything.

    Raises:
        ConfigKeyError: with a suggestion.
    """
    for part in given:
        if part not in schema.keys():
            raise ConfigKeyError(_unknown(cfg, f"{path}.{part}", path, part, schema))
        value, default = child_of(given, part), child_of(schema, part)
        if isinstance(value, DictConfig) and isinstance(default, DictConfig) and len(default):
            check_section(cfg, value, default, f"{path}.{part}")


def not_importable(cfg: DictConfig) -> list[str]:
    """Keys (with names) of callables that cannot be imported by name: lambdas, functions of a config file."""
    bad = []
    for key, value in walk(cfg):
        if not isinstance(value, type) and not inspect.isroutine(value):
            continue
        name = f"{value.__module__}.{value.__qualname__}"
        try:
            found = locate(name)
        except Exception:
            found = None
        if found != value:
            bad.append(f"{key} ({name})")
    return bad


def _unknown(cfg: DictConfig, key: str, path: str, part: str, known: Collection[str]) -> str:
    """The message about ``key``, of which ``part`` below ``path`` is not among ``known``."""
    prefix = f"{path}." if path else ""
    siblings = sorted(str(k) for k in known if k not in ("_target_", part))
    renamed = (TRAIN_KEYS if path == "train" else ARGUMENTS).get(part)
    near = [renamed] if renamed in known else difflib.get_close_matches(part, siblings, n=1)
    if near:
        suggestions = [f"{prefix}{near[0]}{key[len(prefix) + len(part) :]}"]
    else:
        wrong = f"{prefix}{part}"
        keys = [k for k in _all_keys(cfg) if k != wrong and not k.startswith(f"{wrong}.")]
        last = key.rpartition(".")[2]
        same_name = sorted((k for k in keys if k.rpartition(".")[2] == last), key=lambda k: (k.count("."), k))
        suggestions = same_name[:3] or difflib.get_close_matches(key, keys, n=1, cutoff=0.8)
    if suggestions:
        return f"unknown key {key!r}: did you mean {' or '.join(suggestions)}?"
    return f"unknown key {key!r}: {path or 'the config'} has {', '.join(siblings) or 'no keys'}"


def _all_keys(cfg: DictConfig) -> Iterator[str]:
    for path, node in walk(cfg):
        if path and not path.endswith("_target_"):
            yield path
        if isinstance(node, DictConfig):
            yield from (f"{path}.{name}" for name in (parameters_of(node, path) or {}) if name not in node.keys())
