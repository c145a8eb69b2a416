"""Backbones."""

from .backbone import Backbone
from .build import BACKBONE_REGISTRY
from .resnet import BasicStem, BottleneckBlock, ResNet, ResNetBlockBase, make_stage
from .swin import SwinTransformer
