"""Objects built from configs, also without memory for their parameters."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from detectron2.config import instantiate
from omegaconf import DictConfig, OmegaConf
from torch import nn
from torch.overrides import TorchFunctionMode

from .validation import ConfigError

__all__ = ["build", "build_on_meta", "meta_device"]


def build(cfg: DictConfig, key: str) -> Any:
    """Instantiate a node; a value that its target refuses, or a package that it lacks, is the config's fault.

    Raises:
        ConfigError: such a value or package.
    """
    try:
        return instantiate(OmegaConf.select(cfg, key))
    except (ImportError, ValueError) as e:
        raise ConfigError(f"{key}: {e}") from e


class _LinspaceOnHost(TorchFunctionMode):
    """The real detectron2's Swin asks for the values of a ``linspace`` while it is built."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if function is torch.linspace:
            kwargs.setdefault("device", "cpu")
        return function(*args, **kwargs)


@contextmanager
def meta_device() -> Iterator[None]:
    """Modules built within have no memory for their parameters and buffers."""
    with torch.device("meta"), _LinspaceOnHost():
        yield


def build_on_meta(cfg: DictConfig) -> nn.Module:
    """``cfg.model`` in evaluation mode, without memory for its parameters."""
    with meta_device():
        return instantiate(cfg.model).eval()
