"""Registry of backbones."""

from detectron2.utils.registry import Registry

BACKBONE_REGISTRY = Registry("BACKBONE")
"""Functions ``(cfg, input_shape: ShapeSpec) -> Backbone``, registered under their names."""
