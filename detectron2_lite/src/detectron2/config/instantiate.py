"""Build the objects that a lazy config describes."""

import dataclasses
import logging
from collections.abc import Mapping
from typing import Any

from detectron2.utils.registry import locate
from omegaconf import DictConfig, ListConfig, OmegaConf


def instantiate(cfg: Any) -> Any:
    """Call every ``_target_`` found in ``cfg``, innermost first.

    Searched are lists and the arguments of calls. A mapping without ``_target_`` is returned as it is, with any
    call inside it left unbuilt: it is data for whoever receives it. Lists inside an omegaconf config arrive in
    constructors as ListConfig, mappings as DictConfig.

    Args:
        cfg: a mapping with ``_target_`` (a callable, a dotted path, or a config that builds a callable) and the keyword
            arguments of the call; a list of such; or any other value.

    Returns:
        The object built; for lists a list (or ListConfig) of the objects; other values unchanged.

    Raises:
        ImportError: a dotted path does not exist.
        TypeError: the target is not callable, or does not accept the arguments (the target's name is logged).
    """
    if isinstance(cfg, ListConfig):
        return ListConfig([instantiate(item) for item in cfg], flags={"allow_objects": True})
    if isinstance(cfg, list):
        return [instantiate(item) for item in cfg]
    if isinstance(cfg, DictConfig) and dataclasses.is_dataclass(OmegaConf.get_type(cfg)):
        return OmegaConf.to_object(cfg)
    if not (isinstance(cfg, Mapping) and "_target_" in cfg):
        return cfg

    arguments = {key: instantiate(value) for key, value in cfg.items()}
    target = arguments.pop("_target_")
    if isinstance(target, str):
        target = locate(target)
    if not callable(target):
        raise TypeError(f"_target_ must be a callable or the dotted path of one, got {cfg['_target_']!r}")
    try:
        return target(**arguments)
    except TypeError:
        logging.getLogger(__name__).error("Error when instantiating %s!", _name_of(target))
        raise


def _name_of(target: Any) -> str:
    module, name = getattr(target, "__module__", None), getattr(target, "__qualname__", None)
    return f"{module}.{name}" if module and name else str(target)
