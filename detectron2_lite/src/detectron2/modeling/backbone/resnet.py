"""ResNet (He et al., "Deep Residual Learning for Image Recognition", 2015) with detectron2's parameter names.

Layers are created and initialised in upstream's order, so that a seed gives the same weights.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.layers import CNNBlockBase, Conv2d, get_norm
from torch import Tensor, nn

from .backbone import Backbone

Norm = str | Callable[[int], nn.Module]
ResNetBlockBase = CNNBlockBase

_BLOCKS_PER_STAGE = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}


def _conv(
    in_channels: int, out_channels: int, kernel_size: int, norm: Norm, kind: type[Conv2d] = Conv2d, **kwargs: Any
) -> Conv2d:
    return kind(in_channels, out_channels, kernel_size, bias=False, norm=get_norm(norm, out_channels), **kwargs)


def _msra_fill(conv: nn.Module) -> None:
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")


class _ResidualBlock(CNNBlockBase):
    """The shortcut, a 1x1 projection where the channels change, and the sum."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, norm: Norm) -> None:
        super().__init__(in_channels, out_channels, stride)
        project = in_channels != out_channels
        self.shortcut = _conv(in_channels, out_channels, 1, norm, stride=stride) if project else None

    def _init_weights(self, *convs: nn.Module) -> None:
        for conv in (*convs, self.shortcut):
            if conv is not None:
                _msra_fill(conv)

    def _residual(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) to (B, out_channels, H / stride, W / stride)."""
        out = self._residual(x)
        out += x if self.shortcut is None else self.shortcut(x)
        return F.relu_(out)


class BasicBlock(_ResidualBlock):
    """Two 3x3 convolutions: the block of ResNet-18 and -34."""

    def __init__(self, in_channels: int, out_channels: int, *, stride: int = 1, norm: Norm = "BN") -> None:
        super().__init__(in_channels, out_channels, stride, norm)
        self.conv1 = _conv(in_channels, out_channels, 3, norm, stride=stride, padding=1)
        self.conv2 = _conv(out_channels, out_channels, 3, norm, padding=1)
        self._init_weights(self.conv1, self.conv2)

    def _residual(self, x: Tensor) -> Tensor:
        return self.conv2(F.relu_(self.conv1(x)))


class BottleneckBlock(_ResidualBlock):
    """1x1, 3x3 and 1x1 convolutions: the block of ResNet-50, -101 and -152."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        bottleneck_channels: int,
        stride: int = 1,
        num_groups: int = 1,
        norm: Norm = "BN",
        stride_in_1x1: bool = False,
        dilation: int = 1,
    ) -> None:
        """
        Args:
            bottleneck_channels: channels of the 3x3 convolution.
            num_groups: groups of the 3x3 convolution.
            norm: see ``layers.get_norm``.
            stride_in_1x1: stride in the first 1x1 (the MSRA weights) instead of the 3x3 (torchvision's).
            dilation: of the 3x3 convolution.
        """
        super().__init__(in_channels, out_channels, stride, norm)
        stride_1x1, stride_3x3 = (stride, 1) if stride_in_1x1 else (1, stride)
        self.conv1 = _conv(in_channels, bottleneck_channels, 1, norm, stride=stride_1x1)
        geometry = {"stride": stride_3x3, "padding": dilation, "dilation": dilation, "groups": num_groups}
        self.conv2 = _conv(bottleneck_channels, bottleneck_channels, 3, norm, **geometry)
        self.conv3 = _conv(bottleneck_channels, out_channels, 1, norm)
        self._init_weights(self.conv1, self.conv2, self.conv3)

    def _residual(self, x: Tensor) -> Tensor:
        return self.conv3(F.relu_(self.conv2(F.relu_(self.conv1(x)))))


class _DeformConv(Conv2d):
    def forward(self, x: Tensor, offset: Tensor, mask: Tensor | None = None) -> Tensor:
        from torchvision.ops import deform_conv2d  # slow to import

        x = deform_conv2d(x, offset, self.weight, self.bias, self.stride, self.padding, self.dilation, mask)
        return x if self.norm is None else self.norm(x)


class DeformBottleneckBlock(_ResidualBlock):
    """A bottleneck whose 3x3 convolution is deformable (Dai et al., 2017), optionally modulated (Zhu et al., 2018)."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        bottleneck_channels: int,
        stride: int = 1,
        num_groups: int = 1,
        norm: Norm = "BN",
        stride_in_1x1: bool = False,
        dilation: int = 1,
        deform_modulated: bool = False,
        deform_num_groups: int = 1,
    ) -> None:
        """See :class:`BottleneckBlock`; ``deform_num_groups`` offset groups, ``deform_modulated`` adds a mask."""
        super().__init__(in_channels, out_channels, stride, norm)
        self.deform_modulated = deform_modulated
        stride_1x1, stride_3x3 = (stride, 1) if stride_in_1x1 else (1, stride)
        geometry = {"stride": stride_3x3, "padding": dilation, "dilation": dilation}
        numbers_per_tap = 3 if deform_modulated else 2
        self.conv1 = _conv(in_channels, bottleneck_channels, 1, norm, stride=stride_1x1)
        self.conv2_offset = Conv2d(bottleneck_channels, 9 * numbers_per_tap * deform_num_groups, 3, **geometry)
        self.conv2 = _conv(
            bottleneck_channels, bottleneck_channels, 3, norm, kind=_DeformConv, groups=num_groups, **geometry
        )
        self.conv3 = _conv(bottleneck_channels, out_channels, 1, norm)
        self._init_weights(self.conv1, self.conv2, self.conv3)
        nn.init.zeros_(self.conv2_offset.weight)
        nn.init.zeros_(self.conv2_offset.bias)

    def _residual(self, x: Tensor) -> Tensor:
        x = F.relu_(self.conv1(x))
        offset, mask = self.conv2_offset(x), None
        if self.deform_modulated:
            taps = offset.shape[1] // 3
            offset, mask = offset.split((2 * taps, taps), dim=1)
            mask = mask.sigmoid()
        return self.conv3(F.relu_(self.conv2(x, offset, mask)))


class BasicStem(CNNBlockBase):
    """7x7 convolution and max pooling: stride 4."""

    def __init__(self, in_channels: int = 3, out_channels: int = 64, norm: Norm = "BN") -> None:
        super().__init__(in_channels, out_channels, 4)
        self.conv1 = _conv(in_channels, out_channels, 7, norm, stride=2, padding=3)
        _msra_fill(self.conv1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) to (B, out_channels, H / 4, W / 4)."""
        return F.max_pool2d(F.relu_(self.conv1(x)), kernel_size=3, stride=2, padding=1)


class ResNet(Backbone):
    """A stem, stages ``res2``, ``res3``, ... and, if asked for, a classifier ``linear``."""

    def __init__(
        self,
        stem: CNNBlockBase,
        stages: Sequence[Sequence[CNNBlockBase]],
        num_classes: int | None = None,
        out_features: Sequence[str] | None = None,
        freeze_at: int = 0,
    ) -> None:
        """
        Args:
            stem: module with ``stride`` and ``out_channels``.
            stages: lists of blocks; those above the highest wanted feature are dropped.
            num_classes: adds average pooling and a linear classifier.
            out_features: names to return, of "stem", "res2", ..., "linear"; default: the last one.
            freeze_at: 1 freezes the stem, 2 also res2, and so on; see :meth:`freeze`.

        Raises:
            AssertionError: an unknown or empty ``out_features``, or a stage that is not a list of blocks.
        """
        super().__init__()
        self.stem = stem
        self.num_classes = num_classes
        stride, channels, name = stem.stride, stem.out_channels, "stem"
        self._out_feature_strides, self._out_feature_channels = {"stem": stride}, {"stem": channels}
        if out_features is not None:  # unused stages would be parameters without gradients
            highest = max(int(f[3:]) - 1 if f in ("res2", "res3", "res4", "res5") else 0 for f in out_features)
            stages = stages[:highest]

        self.stages = []
        for i, blocks in enumerate(stages, start=2):
            assert len(blocks) > 0, f"Stage {i} has no blocks"
            assert all(isinstance(b, CNNBlockBase) for b in blocks), f"Stage {i} has other modules: {blocks}"
            name = f"res{i}"
            stage = nn.Sequential(*blocks)
            self.add_module(name, stage)
            self.stages.append(stage)
            stride, channels = stride * math.prod(b.stride for b in blocks), blocks[-1].out_channels
            self._out_feature_strides[name], self._out_feature_channels[name] = stride, channels
        self.stage_names = tuple(f"res{i}" for i in range(2, 2 + len(self.stages)))

        if num_classes is not None:
            name = "linear"
            self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
            self.linear = nn.Linear(channels, num_classes)
            nn.init.normal_(self.linear.weight, std=0.01)
            self._out_feature_strides[name], self._out_feature_channels[name] = None, num_classes

        self._out_features = [name] if out_features is None else out_features
        available = [child for child, _ in self.named_children()]
        assert len(self._out_features) > 0, f"out_features is empty; use some of {available}"
        for feature in self._out_features:
            assert feature in available, f"No feature {feature!r}; use some of {available}"
        self.freeze(freeze_at)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Map images (B, C, H, W) to the wanted features."""
        assert x.dim() == 4, f"ResNet takes (B, C, H, W), got {tuple(x.shape)}"
        features = {"stem": self.stem(x)}
        x = features["stem"]
        for name, stage in zip(self.stage_names, self.stages, strict=True):
            features[name] = x = stage(x)
        if self.num_classes is not None:
            features["linear"] = self.linear(torch.flatten(self.avgpool(x), 1))
        return {name: features[name] for name in features if name in self._out_features}

    def freeze(self, freeze_at: int = 0) -> ResNet:
        """Freeze the stem (``freeze_at`` >= 1) and the stages up to ``res{freeze_at}``; returns the network."""
        if freeze_at >= 1:
            self.stem.freeze()
        for i, stage in enumerate(self.stages, start=2):
            if freeze_at >= i:
                for block in stage.children():
                    block.freeze()
        return self

    @staticmethod
    def make_stage(
        block_class: type[CNNBlockBase], num_blocks: int, *, in_channels: int, out_channels: int, **kwargs: Any
    ) -> list[CNNBlockBase]:
        """Build the blocks of one stage.

        Args:
            block_class: constructor of a block.
            num_blocks: their number.
            in_channels: channels into the first block; the others take ``out_channels``.
            out_channels: channels out of every block.
            kwargs: arguments for every block; ``name_per_block`` is a list with the value of ``name`` for each.

        Raises:
            AssertionError: a list of the wrong length, or both ``name`` and ``name_per_block``.
        """
        suffix = "_per_block"
        shared = {k: v for k, v in kwargs.items() if not k.endswith(suffix)}
        varying = {k.removesuffix(suffix): v for k, v in kwargs.items() if k.endswith(suffix)}
        for name, values in varying.items():
            assert len(values) == num_blocks, f"{name}{suffix} has {len(values)} values for {num_blocks} blocks"
            assert name not in shared, f"Give {name} or {name}{suffix}, not both"
        return [
            block_class(
                in_channels=in_channels if i == 0 else out_channels,
                out_channels=out_channels,
                **shared,
                **{name: values[i] for name, values in varying.items()},
            )
            for i in range(num_blocks)
        ]

    @staticmethod
    def make_default_stages(
        depth: int, block_class: type[CNNBlockBase] | None = None, **kwargs: Any
    ) -> list[list[CNNBlockBase]]:
        """Build res2 to res5 of a standard ResNet.

        Args:
            depth: 18, 34, 50, 101 or 152.
            block_class: default: :class:`BasicBlock` below 50, else :class:`BottleneckBlock`.
            kwargs: further arguments of every block (``norm``, ``stride_in_1x1``, ...).

        Raises:
            KeyError: another depth.
        """
        widening = 1 if depth < 50 else 4
        block_class = block_class or (BasicBlock if depth < 50 else BottleneckBlock)
        stages, in_channels = [], 64
        for i, num_blocks in enumerate(_BLOCKS_PER_STAGE[depth]):
            out_channels = 64 * widening * 2**i
            if depth >= 50:
                kwargs["bottleneck_channels"] = out_channels // 4
            strides = [1 if i == 0 else 2] + [1] * (num_blocks - 1)
            channels = {"in_channels": in_channels, "out_channels": out_channels}
            stages.append(ResNet.make_stage(block_class, num_blocks, stride_per_block=strides, **channels, **kwargs))
            in_channels = out_channels
        return stages


def make_stage(*args: Any, **kwargs: Any) -> list[CNNBlockBase]:
    """Old spelling of :meth:`ResNet.make_stage`."""
    return ResNet.make_stage(*args, **kwargs)
