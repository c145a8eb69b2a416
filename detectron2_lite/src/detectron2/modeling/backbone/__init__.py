"""Backbones."""

from detectron2._subset import missing

from .backbone import Backbone
from .build import BACKBONE_REGISTRY
from .resnet import BasicStem, BottleneckBlock, ResNet, ResNetBlockBase, make_stage
from .swin import SwinTransformer

__all__ = [
    "BACKBONE_REGISTRY",
    "Backbone",
    "BasicStem",
    "BottleneckBlock",
    "ResNet",
    "ResNetBlockBase",
    "SwinTransformer",
    "make_stage",
]

__getattr__ = missing(__name__)
