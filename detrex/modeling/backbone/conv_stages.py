"""A small convolutional backbone for small images and for training from scratch on a CPU."""

from __future__ import annotations

from collections.abc import Sequence

from detectron2.layers import ShapeSpec
from detectron2.modeling import Backbone
from torch import Tensor, nn

STEM_STRIDE = 2


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with batch norm and a shortcut (He et al. 2016, section 3.4).

    Args:
        in_channels: C of the input (B, C, H, W).
        out_channels: C of the output.
        stride: 1, or 2 to halve height and width.
    """

    def __init__(self, in_channels: int, out_channels: int, *, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(out_channels)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            projection = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)
            self.shortcut = nn.Sequential(projection, nn.BatchNorm2d(out_channels))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C', ceil(H / stride), ceil(W / stride))."""
        y = self.norm1(self.conv1(x)).relu()
        return (self.norm2(self.conv2(y)) + self.shortcut(x)).relu()


class ConvStages(Backbone):
    """A stem of stride 2 and four residual stages ``stage1``..``stage4`` at strides 2, 4, 8 and 16.

    Stride 16 where a ResNet ends at 32: small images keep enough cells to tell neighbouring objects apart.

    Args:
        channels: widths of the four stages.
        depths: residual blocks in each stage.
        out_features: names of the stages to return.

    Raises:
        ValueError: ``channels`` and ``depths`` are not four numbers each, or an unknown name in ``out_features``.
    """

    def __init__(
        self,
        *,
        channels: Sequence[int] = (16, 32, 64, 128),
        depths: Sequence[int] = (1, 1, 1, 1),
        out_features: Sequence[str] = ("stage3", "stage4"),
    ) -> None:
        super().__init__()
        if len(channels) != 4 or len(depths) != 4:
            raise ValueError(f"four stages: got {len(channels)} channels and {len(depths)} depths")
        names = [f"stage{i}" for i in range(1, 5)]
        if unknown := set(out_features) - set(names):
            raise ValueError(f"unknown out_features {sorted(unknown)}; there are {', '.join(names)}")
        self.stem = nn.Sequential(
            nn.Conv2d(3, channels[0], 3, STEM_STRIDE, 1, bias=False), nn.BatchNorm2d(channels[0]), nn.ReLU()
        )
        self.stages = nn.ModuleDict()
        in_channels, stride = channels[0], STEM_STRIDE
        self._shapes = {}
        for i, (name, width, depth) in enumerate(zip(names, channels, depths, strict=True)):
            step = 1 if i == 0 else 2
            blocks = [ResidualBlock(in_channels if j == 0 else width, width, stride=step if j == 0 else 1)
                      for j in range(depth)]  # fmt: skip
            self.stages[name] = nn.Sequential(*blocks)
            in_channels, stride = width, stride * step
            self._shapes[name] = ShapeSpec(channels=width, stride=stride)
        self.out_features = tuple(out_features)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """(B, 3, H, W) -> {name: (B, C, H / stride, W / stride)} for each of ``out_features``."""
        x = self.stem(x)
        maps = {}
        for name, stage in self.stages.items():
            x = stage(x)
            if name in self.out_features:
                maps[name] = x
        return maps

    def output_shape(self) -> dict[str, ShapeSpec]:
        """Channels and stride of each of ``out_features``."""
        return {name: self._shapes[name] for name in self.out_features}
