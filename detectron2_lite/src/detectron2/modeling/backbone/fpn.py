"""The parts of the feature pyramid module that other backbones borrow."""

import itertools
from collections.abc import Sequence

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
