"""Lazy configs (Python and YAML files), instantiation, and the yacs bridge ``configurable``."""

from __future__ import annotations

from detectron2._subset import missing

from .config import CfgNode, configurable
from .instantiate import instantiate
from .lazy import LazyCall, LazyConfig

__all__ = ["CfgNode", "LazyCall", "LazyConfig", "configurable", "instantiate"]

__getattr__ = missing(__name__)
