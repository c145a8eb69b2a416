"""Backbones and the last step of a detector."""

from detectron2.layers import ShapeSpec

from .backbone import BACKBONE_REGISTRY, Backbone, ResNet, ResNetBlockBase, SwinTransformer, make_stage
from .postprocessing import detector_postprocess
