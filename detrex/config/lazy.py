"""Lazy configs: find them, load them, change them, check them, save them.

A config is an ``omegaconf.DictConfig`` as detectron2's LazyConfig makes it: a tree whose nodes with a ``_target_``
describe calls that ``instantiate`` performs later. This module adds what LazyConfig leaves out: a key that nobody
reads is an error with a suggestion, and a saved config loads again.
"""

from __future__ import annotations

import builtins
import difflib
import functools
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from detectron2.config import LazyConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from .renamed import rename_keys
from .tree import ConfigError, ConfigKeyError, child_of
from .validation import check_key, check_section, check_targets, not_importable
from .values import check_values, convert, expected_type, takes_text

__all__ = [
    "ConfigError",
    "ConfigKeyError",
    "apply_overrides",
    "find_config",
    "get_config",
    "load_config",
    "load_run_config",
    "register_loader",
    "save_config",
    "validate_config",
]

logger = logging.getLogger(__name__)

_ROOT = Path(__file__).resolve().parents[2]
# A source tree (and an editable install) has configs/ beside the package, a wheel carries it inside.
_CONFIG_ROOTS = (_ROOT / "configs", _ROOT / "detrex" / "configs")
_SECTIONS = ("model", "dataloader", "optimizer", "lr_multiplier", "train")

_Loader = Callable[[Path, Sequence[str]], DictConfig]
_LOADERS: list[tuple[Callable[[Path], bool], _Loader]] = []


def register_loader(accepts: Callable[[Path], bool], load: _Loader) -> None:
    """Let :func:`load_config` read config files of another form.

    Args:
        accepts: whether a file has this form; must not execute it.
        load: from a file and overrides, which go by the file's own keys, to a config of ours.
    """
    _LOADERS.append((accepts, load))


def _loader_of(path: Path) -> _Loader | None:
    return next((load for accepts, load in _LOADERS if accepts(path)), None)


def find_config(name: str | os.PathLike) -> Path:
    """Path of a config: ``name`` itself if that file exists, else relative to the shipped ``configs/`` or to the
    folder that holds ``projects/``, in a source tree as well as when installed.

    Raises:
        ConfigError: if there is no such file; the message lists where it was looked for.
    """
    candidates = [Path(name), *(root / name for root in _CONFIG_ROOTS), _ROOT / name]
    for path in candidates:
        if path.is_file():
            return path
    hint = ""
    for path in candidates:
        siblings = [p.name for p in path.parent.glob("*.*")] if path.parent.is_dir() else []
        near = difflib.get_close_matches(path.name, siblings, n=1)
        if near:
            hint = f" Did you mean {path.parent / near[0]}?"
            break
    raise ConfigError(f"config file {name} not found.{hint} Looked for {', '.join(map(str, candidates))}")


def load_config(path: str | os.PathLike, overrides: Sequence[str] = ()) -> DictConfig:
    """Load a ``.py`` or ``.yaml`` config and apply command-line overrides to it.

    Files of another form are left to the loader that is registered for them, such as that of ``detrex.compat``.
    A config is a program and runs when loaded; load only what you trust.

    Raises:
        ConfigError: the file is absent or of another type. ConfigKeyError: an override names an unknown key.
    """
    path = find_config(path)
    if path.suffix not in (".py", ".yaml", ".yml"):
        raise ConfigError(f"config file {path} must end in .py, .yaml or .yml")
    if load := _loader_of(path):
        return load(path, overrides)
    original_import = builtins.__import__
    try:
        cfg = LazyConfig.load(str(path))
    finally:
        # A config that raises would otherwise leave detectron2's import hook installed for good.
        builtins.__import__ = original_import
    renamed = rename_keys(cfg)
    if renamed and path.suffix == ".py":
        logger.warning("%s uses names of an earlier version: %s", path, ", ".join(renamed))
    return apply_overrides(cfg, overrides)


def load_run_config(path: str | os.PathLike, overrides: Sequence[str] = ()) -> DictConfig:
    """Load the config of a run, check it, fill in the defaults of ``train`` and apply overrides.

    Raises:
        ConfigError: what :func:`load_config` refuses, a section that is not there, or what :func:`validate_config`
            refuses.
    """
    foreign = _loader_of(find_config(path)) is not None  # its overrides go by its own keys
    cfg = load_config(path, overrides if foreign else ())
    absent = [key for key in _SECTIONS if key not in cfg]
    if absent:
        raise ConfigError(f"{path} does not define {', '.join(absent)}: it is not the config of a run")
    validate_config(cfg)
    # What the file leaves out of train has its default, also in a file that is older than the key.
    missing = OmegaConf.missing_keys(cfg.train)  # by their names in cfg
    cfg.train = OmegaConf.merge(get_config("common/train.py").train, cfg.train)
    for key in missing:  # merging takes the default for ???
        OmegaConf.update(cfg, key, "???")
    return cfg if foreign else apply_overrides(cfg, overrides)


def get_config(name: str) -> DictConfig:
    """A fresh copy of a shipped config by its name below ``configs/``: ``get_config("common/train.py").train``.

    Project configs go by their path from the folder that holds ``projects/``.
    """
    return load_config(name)


def save_config(cfg: DictConfig, path: str | os.PathLike) -> None:
    """Write ``cfg`` as YAML that ``LazyConfig.load`` reads again and builds the same from; interpolations stay.

    Raises:
        ConfigError: if a value cannot be written so, naming its key and what to put there.
    """
    bad = not_importable(cfg)
    if bad:
        raise ConfigError(
            f"{path} would not load again: these values are lambdas or are defined inside a config file: "
            f"{', '.join(bad)}. Move each to a module that can be imported."
        )
    LazyConfig.save(cfg, str(path))


def validate_config(cfg: DictConfig) -> None:
    """Check, without building anything, that something reads every key, and that its value has the right type.

    Keys of nodes with a ``_target_`` are compared with its signature, keys of ``train`` with ``common/train.py``;
    ``train.extra`` may hold anything. Text that means a value of the right type, such as ``"1e-4"`` or ``"off"``, is
    replaced by it.

    Raises:
        ConfigKeyError: an unknown key, with a suggestion.
        ConfigError: a ``_target_`` that cannot be imported, or a value of another type.
    """
    check_targets(cfg)
    if "train" in cfg:
        check_section(cfg, cfg.train, get_config("common/train.py").train, "train")
    check_values(cfg, _defaults())


def apply_overrides(cfg: DictConfig, overrides: Sequence[str]) -> DictConfig:
    """Change ``cfg`` in place by ``key=value`` strings in hydra's override grammar, and return it.

    A key is known if it exists or is a parameter of its node's ``_target_``. ``+key=value`` sets any key, ``~key``
    removes one. A value becomes the type that its key expects (:mod:`detrex.config.values`); where that is text, what
    hydra cannot read is taken as it is.

    Args:
        cfg: the config.
        overrides: such as ``["optimizer.lr=1e-4", "train.max_iter=12ep", "~optimizer.betas"]``.

    Raises:
        ConfigError: an override that cannot be read, whose value has the wrong type, or that replaces a section by a
            value.
        ConfigKeyError: an unknown key, with a suggestion.
    """
    sections = False
    for text in overrides:
        key, value, operation = _parse(cfg, text)
        if operation == "delete":
            _delete(cfg, key)
            continue
        if operation == "set":
            check_key(cfg, key)
            _check_kind(cfg, key, value, text)
        try:
            value = convert(value, expected_type(cfg, key, _defaults()), key, text=text.partition("=")[2])
            OmegaConf.update(cfg, key, value, merge=True)
        except ConfigError as e:
            raise ConfigError(f"override {e}") from None
        except (OmegaConfBaseException, TypeError, ValueError, IndexError) as e:
            raise ConfigError(f"cannot apply override {text!r}: {e}") from e
        sections |= isinstance(value, dict)
    if sections:
        check_values(cfg, _defaults())
    return cfg


@functools.cache
def _defaults() -> dict[str, Any]:
    """The default of each key of ``train`` by its dotted name."""

    def leaves(path: str, value: Any) -> Iterator[tuple[str, Any]]:
        if isinstance(value, dict):
            for key, child in value.items():
                yield from leaves(f"{path}.{key}", child)
        else:
            yield path, value

    return dict(leaves("train", OmegaConf.to_container(get_config("common/train.py").train)))


def _parse(cfg: DictConfig, text: str) -> tuple[str, Any, str]:
    """Key, value, and whether to "set", "add" or "delete" it.

    What hydra's grammar cannot read, or would read as several values, is text where the key takes any text.
    """
    if text.startswith("-"):
        raise ConfigError(f"{text!r} is an option: options stand before the overrides")
    problem, several = "it gives several values; write a list as [a,b]", True
    try:
        override = OverridesParser.create().parse_override(text)
        if not override.is_sweep_override():
            kind = "delete" if override.is_delete() else "set"
            kind = "add" if override.is_add() or override.is_force_add() else kind
            return override.key_or_group, override.value(), kind
    except HydraException as e:
        several = False
        problem = (
            f"{str(e).splitlines()[0]}. Write key=value; a value that holds = or a comma needs quotes that the shell "
            "leaves alone: 'optimizer.params.overrides={\"a=b\": {lr: 1}}'"
        )
    key, equals, value = text.partition("=")
    kind = "add" if key.startswith("+") else "set"
    key = key.lstrip("+")
    if equals and not key.startswith("~"):
        if kind == "set":
            check_key(cfg, key)
        if takes_text(expected_type(cfg, key, _defaults()), in_list=not several):
            return key, value, kind
    raise ConfigError(f"cannot read override {text!r}: {problem}")


def _parent(cfg: DictConfig, key: str) -> tuple[Any, Any]:
    path, _, last = key.rpartition(".")
    node: Any = cfg
    for part in path.split(".") if path else ():
        node = child_of(node, int(part) if isinstance(node, ListConfig) else part) if node is not None else None
    return node, int(last) if isinstance(node, ListConfig) else last


def _check_kind(cfg: DictConfig, key: str, value: Any, text: str) -> None:
    node, last = _parent(cfg, key)
    old = child_of(node, last) if isinstance(node, (DictConfig, ListConfig)) else None
    is_plain = isinstance(value, (bool, int, float, list)) or (isinstance(value, str) and not value.startswith("${"))
    if isinstance(old, DictConfig) and is_plain:
        keys = ", ".join(f"{key}.{k}" for k in old if k != "_target_")
        raise ConfigError(f"override {text!r} would replace a whole section by a value; its keys are {keys}")


def _delete(cfg: DictConfig, key: str) -> None:
    check_key(cfg, key)
    node, last = _parent(cfg, key)
    if isinstance(node, DictConfig) and last not in node.keys():
        raise ConfigKeyError(f"cannot remove {key!r}: it is not set")
    del node[last]
