"""What the detectors expect of a backbone."""

from abc import ABCMeta, abstractmethod

from detectron2.layers import ShapeSpec
from torch import Tensor, nn


class Backbone(nn.Module, metaclass=ABCMeta):
    """A network from images to named feature maps.

    Subclasses implement :meth:`forward` and either override :meth:`output_shape` or set ``_out_features`` (names),
    ``_out_feature_channels`` and ``_out_feature_strides`` (name -> int).
    """

    def __init__(self) -> None:
        super().__init__()

    @abstractmethod
    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Map images (B, 3, H, W) to ``{name: (B, C, H / stride, W / stride)}``."""

    @property
    def size_divisibility(self) -> int:
        """Inputs must be padded to a multiple of this; 0 for no wish."""
        return 0

    @property
    def padding_constraints(self) -> dict[str, int]:
        """Wishes for ``ImageList.from_tensors``: ``size_divisibility``, ``square_size``; {} for none."""
        return {}

    def output_shape(self) -> dict[str, ShapeSpec]:
        """Channels and stride of every output."""
        return {
            name: ShapeSpec(channels=self._out_feature_channels[name], stride=self._out_feature_strides[name])
            for name in self._out_features
        }
