"""The yacs bridge: ``CfgNode`` and ``configurable``, without detectron2's table of default values."""

import functools
import inspect
from collections.abc import Callable
from typing import IO, Any

from detectron2.utils.file_io import PathManager
from fvcore.common.config import CfgNode as _CfgNode
from omegaconf import DictConfig


class CfgNode(_CfgNode):
    """A yacs node whose ``_BASE_`` and ``merge_from_file`` paths go through detectron2's PathManager."""

    @classmethod
    def _open_cfg(cls, filename: str) -> IO[str]:
        return PathManager.open(filename, "r")


def configurable(
    init_func: Callable[..., Any] | None = None, *, from_config: Callable[..., dict[str, Any]] | None = None
) -> Callable[..., Any]:
    """Let a class or function also be called with a config.

    Two uses: ``@configurable`` on an ``__init__`` whose class has a classmethod ``from_config(cls, cfg, ...)``, and
    ``@configurable(from_config=f)`` on a function, with ``f(cfg, ...)``. If the first positional argument or the
    argument ``cfg`` is a CfgNode or DictConfig, ``from_config`` translates it to keyword arguments; keywords that
    ``from_config`` does not name override its result. Any other call goes straight through.

    Raises:
        TypeError: used on something else, or ``from_config`` does not take ``cfg`` first.
        AttributeError: when the class is built and has no ``from_config``.
    """
    if init_func is None:
        if from_config is None:
            return configurable
        if not inspect.isfunction(from_config):
            raise TypeError(f"from_config of @configurable must be a function, got {from_config!r}")
        return functools.partial(_wrap_function, from_config=from_config)
    if from_config is not None or not inspect.isfunction(init_func) or init_func.__name__ != "__init__":
        raise TypeError("@configurable decorates an __init__; for functions use @configurable(from_config=...)")

    @functools.wraps(init_func)
    def wrapped(self: Any, *args: Any, **kwargs: Any) -> None:
        translate = getattr(type(self), "from_config", None)
        if translate is None:
            raise AttributeError(f"{type(self).__name__} is @configurable and needs a 'from_config' classmethod")
        if not inspect.ismethod(translate):
            raise TypeError(f"{type(self).__name__}.from_config must be a classmethod")
        if _has_config(args, kwargs):
            args, kwargs = (), _translate(translate, args, kwargs)
        init_func(self, *args, **kwargs)

    return wrapped


def _wrap_function(function: Callable[..., Any], from_config: Callable[..., dict[str, Any]]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        if _has_config(args, kwargs):
            args, kwargs = (), _translate(from_config, args, kwargs)
        return function(*args, **kwargs)

    wrapped.from_config = from_config
    return wrapped


def _has_config(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    candidates = (*args[:1], kwargs.get("cfg"))
    return any(isinstance(candidate, (_CfgNode, DictConfig)) for candidate in candidates)


def _translate(from_config: Callable[..., dict[str, Any]], args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict:
    parameters = inspect.signature(from_config).parameters
    if next(iter(parameters), None) != "cfg":
        raise TypeError(f"{from_config.__qualname__} must take 'cfg' as its first argument")
    if any(p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in parameters.values()):
        return from_config(*args, **kwargs)
    known = {key: value for key, value in kwargs.items() if key in parameters}
    rest = {key: value for key, value in kwargs.items() if key not in parameters}
    return {**from_config(*args, **known), **rest}
