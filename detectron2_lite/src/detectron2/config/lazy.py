"""Lazy configs: calls described as data, in Python or YAML files."""

import dataclasses
import inspect
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from detectron2.utils.file_io import PathManager
from detectron2.utils.registry import _convert_target_to_string
from omegaconf import DictConfig, ListConfig, OmegaConf, SCMode

from . import _yaml
from ._python import as_config, run_config_file


class LazyCall:
    """``LazyCall(f)(a=1)`` is a config that describes the call ``f(a=1)``; :func:`instantiate` makes it.

    Args:
        target: a callable, the dotted path of one, or a config that builds one.

    Raises:
        TypeError: ``target`` is none of these.
    """

    def __init__(self, target: Callable[..., Any] | str | Mapping[str, Any]) -> None:
        if not (callable(target) or isinstance(target, (str, Mapping))):
            raise TypeError(f"target of LazyCall must be a callable or define one, got {target!r}")
        self._target = target

    def __call__(self, **kwargs: Any) -> DictConfig:
        target = self._target
        if dataclasses.is_dataclass(target):
            target = _convert_target_to_string(target)  # omegaconf would take the type for a structured config
        return DictConfig({**kwargs, "_target_": target}, flags={"allow_objects": True})


class LazyConfig:
    """Load, save, change and print lazy configs."""

    @staticmethod
    def load(filename: str, keys: str | tuple[str, ...] | None = None) -> Any:
        """Load a config file.

        Args:
            filename: a .py, .yaml or .yml file. A Python file is executed, with relative imports resolved by file
                position; a YAML file may name Python objects, but cannot run code.
            keys: one name or several to return; by default all.

        Returns:
            For one name its value, for several a tuple, otherwise a DictConfig of all top-level configs (dict,
            DictConfig, ListConfig) whose name does not begin with an underscore.

        Raises:
            ValueError: another kind of file.
            KeyError: the file does not define one of ``keys``.
            SyntaxError, ImportError: see :func:`run_config_file`.
            yaml.YAMLError: see :func:`_yaml.load`.
        """
        filename = os.fspath(filename).replace("/./", "/")
        extension = os.path.splitext(filename)[1]
        if extension == ".py":
            content: Mapping[str, Any] = run_config_file(filename)
        elif extension in (".yaml", ".yml"):
            with PathManager.open(filename, "r") as f:
                content = OmegaConf.create(_yaml.load(f), flags={"allow_objects": True})
        else:
            raise ValueError(f"Config file {filename} has to be a Python (.py) or YAML (.yaml, .yml) file.")
        if isinstance(keys, str):
            return LazyConfig.load(filename, (keys,))[0]
        if keys is not None:
            for name in keys:
                if name not in content:
                    raise KeyError(f"Config file {filename} does not define {name!r}.")
            return tuple(as_config(content[name]) for name in keys)
        if extension != ".py":
            return content
        public = {
            name: as_config(value)
            for name, value in content.items()
            if isinstance(value, (DictConfig, ListConfig, dict)) and not name.startswith("_")
        }
        return DictConfig(public, flags={"allow_objects": True})

    @staticmethod
    def load_rel(filename: str, keys: str | tuple[str, ...] | None = None) -> Any:
        """:meth:`load` with ``filename`` relative to the source file of the caller."""
        caller = inspect.currentframe().f_back.f_code.co_filename
        if caller == "<string>":
            raise ValueError("load_rel needs a caller that is a file; use LazyConfig.load")
        return LazyConfig.load(os.path.join(os.path.dirname(caller), filename), keys)

    @staticmethod
    def save(cfg: Any, filename: str) -> None:
        """Write ``cfg`` as YAML, interpolations unresolved, callables by name. Never raises.

        If the file would not load again (a lambda, a function defined in a config file), a warning names the keys at
        fault and ``<filename>.pkl`` is written besides, with cloudpickle.
        """
        logger = logging.getLogger(__name__)
        try:
            container = OmegaConf.to_container(as_config(cfg), resolve=False, structured_config_mode=SCMode.INSTANTIATE)
            text = _yaml.dump(_name_targets(container))
            with PathManager.open(filename, "w") as f:
                f.write(text)
            if _loads(text):
                return
            why = f"because of {', '.join(_unloadable(container))} (give it a name in an importable module)"
            logger.warning("%s is for reading and cannot be loaded again %s.", filename, why)
        except Exception:
            logger.exception("The config cannot be written as YAML")
        try:
            import cloudpickle

            with PathManager.open(f"{filename}.pkl", "wb") as f:
                cloudpickle.dump(cfg, f)
            logger.warning("The config is saved with cloudpickle at %s.pkl.", filename)
        except Exception:
            logger.exception("Unable to pickle the config. Error:")

    @staticmethod
    def apply_overrides(cfg: DictConfig, overrides: Sequence[str]) -> DictConfig:
        """Apply ``key=value`` strings in hydra's override grammar, in place; keys that do not exist are created.

        Raises:
            KeyError: a prefix of the key is a plain value.
            NotImplementedError: deletion, ``~key``.
            ValueError: a sweep, such as ``key=1,2``.
            hydra.errors.OverrideParseException: the string is outside the grammar.
        """
        from hydra.core.override_parser.overrides_parser import OverridesParser

        for override in OverridesParser.create().parse_overrides(list(overrides)):
            key = override.key_or_group
            if override.is_delete():
                raise NotImplementedError(f"Override {override.input_line!r}: deleting a key is not supported.")
            if override.is_sweep_override():
                raise ValueError(f"Override {override.input_line!r} is a sweep; write a list as {key}=[...].")
            _check_path(cfg, key)
            OmegaConf.update(cfg, key, override.value(), merge=True)
        return cfg

    @staticmethod
    def to_py(cfg: Any, prefix: str = "cfg.") -> str:
        """Render ``cfg`` as Python-like text for reading, one assignment per leaf, interpolations resolved."""
        from ._source import to_source

        return to_source(cfg, prefix)


def _check_path(cfg: DictConfig, key: str) -> None:
    parts = key.split(".")
    for length in range(1, len(parts)):
        prefix = ".".join(parts[:length])
        value = OmegaConf.select(cfg, prefix, default=None)
        if value is None:
            return
        if not OmegaConf.is_config(value):
            raise KeyError(f"Cannot update {key}: {prefix} is a {type(value).__name__}, not a config.")


def _name_targets(value: Any) -> Any:
    """A copy of plain containers with every callable ``_target_`` replaced by its dotted path."""
    if isinstance(value, list):
        return [_name_targets(item) for item in value]
    if not isinstance(value, dict):
        return value
    named = {key: _name_targets(item) for key, item in value.items()}
    target = named.get("_target_")
    if callable(target) and hasattr(target, "__qualname__") and getattr(target, "__module__", None):
        named["_target_"] = _convert_target_to_string(target)
    return named


def _loads(text: str) -> bool:
    try:
        _yaml.load(text)
    except Exception:
        return False
    return True


def _unloadable(value: Any, path: str = "") -> Iterator[str]:
    """``path=value`` of the leaves that YAML does not bring back."""
    if isinstance(value, (dict, list)):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _unloadable(item, f"{path}.{key}" if path else str(key))
    elif not _loads(_yaml.dump(value)):
        yield f"{path}={value!r}"
