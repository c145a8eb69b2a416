"""Backbones, and stages of backbones, that the host does not have."""

from .conv_stages import ConvStages
from .dilated_resnet import make_dc5_stages
from .timm import TimmBackbone
from .torchvision import TorchvisionBackbone

__all__ = ["ConvStages", "TimmBackbone", "TorchvisionBackbone", "make_dc5_stages"]
