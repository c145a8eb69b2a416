"""The parts of the feature pyramid module that other backbones borrow."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from detectron2._subset import missing
from fvcore.nn import weight_init
from torch import Tensor, nn
from torch.nn import functional as F


def _assert_strides_are_log2_contiguous(strides: Sequence[int]) -> None:
    """Raise AssertionError unless every stride is twice the one before."""
    for previous, stride in itertools.pairwise(strides):
        assert stride == 2 * previous, f"Strides {previous} and {stride} do not double"


class LastLevelMaxPool(nn.Module):
    """One more level by subsampling: p6 from p5 (Lin et al., "Feature Pyramid Networks", 2017)."""

    def __init__(self) -> None:
        super().__init__()
        self.num_levels = 1
        self.in_feature = "p5"

    def forward(self, x: Tensor) -> list[Tensor]:
        """(B, C, H, W) to one map of half the size."""
        return [F.max_pool2d(x, kernel_size=1, stride=2)]


class LastLevelP6P7(nn.Module):
    """Two more levels by strided convolutions, p6 and p7 (Lin et al., "Focal Loss", 2017)."""

    def __init__(self, in_channels: int, out_channels: int, in_feature: str = "res5") -> None:
        super().__init__()
        self.num_levels = 2
        self.in_feature = in_feature
        self.p6 = nn.Conv2d(in_channels, out_channels, 3, stride=2, padding=1)
        self.p7 = nn.Conv2d(out_channels, out_channels, 3, stride=2, padding=1)
        for module in (self.p6, self.p7):
            weight_init.c2_xavier_fill(module)

    def forward(self, c5: Tensor) -> list[Tensor]:
        """(B, in_channels, H, W) to maps of half and a quarter of the size."""
        p6 = self.p6(c5)
        return [p6, self.p7(F.relu(p6))]


__getattr__ = missing(__name__)
