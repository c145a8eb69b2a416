"""Registry of backbones."""

from __future__ import annotations

from detectron2._subset import missing
from detectron2.utils.registry import Registry

BACKBONE_REGISTRY = Registry("BACKBONE")
"""Functions ``(cfg, input_shape: ShapeSpec) -> Backbone``, registered under their names."""

__getattr__ = missing(__name__)
