"""Config files of the original detrex: loaded without it, overridden by their own keys, rewritten."""

from __future__ import annotations

import builtins
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from detectron2.config import LazyConfig
from omegaconf import DictConfig, OmegaConf

from detrex.config import ConfigError, apply_overrides
from detrex.config.validation import check_section, check_targets

from .common import common_config
from .names import NAMES, PACKAGES
from .rewriting import rewrite

__all__ = ["load_original_config"]


def load_original_config(path: str | os.PathLike, overrides: Sequence[str] = ()) -> DictConfig:
    """Load a config file of the original detrex and rewrite it as a config of ours.

    ``get_config`` in it finds the shared configs of the checkout that the file lies in, or what they are by default.

    Args:
        path: of the file.
        overrides: by the keys that the file has, as for :func:`detrex.config.apply_overrides`.

    Returns:
        ``model``, ``dataloader``, ``optimizer``, ``lr_multiplier`` and ``train``, further sections as they are, and
        ``rewritten`` with the ``source`` and ``notes``, what differs from the original.

    Raises:
        ConfigError: a name, a section or a value that has no counterpart here, by its key.
        ConfigKeyError: a key that the original does not know, in the file or an override.
    """
    path = Path(path).absolute()
    with _names_of_the_original(path):
        cfg = LazyConfig.load(str(path))
    absent = [key for key in ("model", "dataloader", "optimizer", "lr_multiplier", "train") if key not in cfg]
    if absent:
        raise ConfigError(f"{path} does not define {', '.join(absent)}: it is not the config of a run")
    schema = common_config("common/train.py").train
    check_targets(cfg)
    check_section(cfg, cfg.train, schema, "train")
    cfg.train = OmegaConf.merge(schema, cfg.train)
    notes: list[str] = []
    folder = OmegaConf.select(cfg, "dataloader.evaluator.output_dir")
    if folder is not None:  # a copy of train.output_dir, taken before the last word on it
        cfg.dataloader.evaluator.output_dir = None
        if folder != cfg.train.output_dir:
            notes.append(f"dataloader.evaluator.output_dir: results go to train.output_dir, not to {folder}")
    cfg = rewrite(apply_overrides(cfg, overrides), notes)
    cfg.rewritten = {"source": str(path), "notes": notes}
    return cfg


@contextmanager
def _names_of_the_original(path: Path) -> Iterator[None]:
    """While a config file runs, what it imports from the original's packages are the classes of ``names``."""
    imports = builtins.__import__

    def import_(
        name: str,
        globals: Mapping[str, Any] | None = None,
        locals: Mapping[str, Any] | None = None,
        fromlist: Sequence[str] | None = (),
        level: int = 0,
    ) -> Any:
        # A config file runs without being a module; what modules import stays what it is.
        from_config = (globals or {}).get("__name__") not in sys.modules
        if level or not fromlist or name.split(".")[0] not in PACKAGES or not from_config:
            return imports(name, globals, locals, fromlist, level)
        found = {key: NAMES[key] for key in fromlist if key in NAMES}
        if "get_config" in fromlist:
            found["get_config"] = lambda config: _get_config(config, path)
        others = [key for key in fromlist if key not in found]
        try:
            found |= {key: getattr(imports(name, globals, locals, others, 0), key) for key in others}
        except (ImportError, AttributeError) as e:
            file = (globals or {}).get("__file__", path)
            raise ConfigError(f"{file}: from {name} import {', '.join(others)}: has no counterpart here ({e})") from e
        return SimpleNamespace(**found)

    builtins.__import__ = import_
    try:
        yield
    finally:
        builtins.__import__ = imports


def _get_config(name: str, path: Path) -> DictConfig:
    """A shared config: that of the checkout around ``path`` if there is one, else as the original has it by default."""
    for folder in path.parents:
        if (folder / "configs" / name).is_file() and (folder / "detrex" / "config" / "config.py").is_file():
            return LazyConfig.load(str(folder / "configs" / name))
    return common_config(name)
