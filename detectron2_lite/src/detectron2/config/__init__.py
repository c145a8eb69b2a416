"""Lazy configs (Python and YAML files), instantiation, and the yacs bridge ``configurable``."""

from .config import CfgNode, configurable
from .instantiate import instantiate
from .lazy import LazyCall, LazyConfig
