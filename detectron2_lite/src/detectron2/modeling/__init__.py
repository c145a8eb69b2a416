"""Backbones and the last step of a detector."""

from detectron2._subset import missing
from detectron2.layers import ShapeSpec

from .backbone import (
    BACKBONE_REGISTRY,
    Backbone,
    ResNet,
    ResNetBlockBase,
    SwinTransformer,
    make_stage,
)
from .postprocessing import detector_postprocess

__all__ = [
    "BACKBONE_REGISTRY",
    "Backbone",
    "ResNet",
    "ResNetBlockBase",
    "ShapeSpec",
    "SwinTransformer",
    "detector_postprocess",
    "make_stage",
]

__getattr__ = missing(__name__)
