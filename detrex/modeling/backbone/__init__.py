"""Backbones, and stages of backbones, that the host does not have."""

from .conv_stages import ConvStages
from .dilated_resnet import make_dc5_stages

__all__ = ["ConvStages", "make_dc5_stages"]
