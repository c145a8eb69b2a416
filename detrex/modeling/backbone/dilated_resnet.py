"""ResNet stages whose last one keeps the resolution: "DC5" (DETR, section 4; Deformable DETR, table 1)."""

from __future__ import annotations

from detectron2.modeling.backbone.resnet import BottleneckBlock, CNNBlockBase, ResNet

__all__ = ["make_dc5_stages"]

RES5_BLOCKS, RES5_IN, RES5_WIDTH, RES5_OUT = 3, 1024, 512, 2048


def make_dc5_stages(*, depth: int, norm: str = "FrozenBN") -> list[list[CNNBlockBase]]:
    """The stages of a bottleneck ResNet with res5 at stride 16 instead of 32, dilated by 2 to make up for it.

    As in torchvision, with which the published models were trained, the first block of res5 takes the stride's place:
    its 3x3 convolution is not dilated, those after it are. Detectron2's ``RES5_DILATION`` dilates the first as well.

    Args:
        depth: 50, 101 or 152 layers.
        norm: detectron2's name of a norm.

    Raises:
        ValueError: if ``depth`` is another.
    """
    if depth not in (50, 101, 152):
        raise ValueError(f"make_dc5_stages: depth must be 50, 101 or 152, got {depth}")
    *stages, _ = ResNet.make_default_stages(depth, stride_in_1x1=False, norm=norm)
    res5 = ResNet.make_stage(
        BottleneckBlock,
        RES5_BLOCKS,
        stride_per_block=[1] * RES5_BLOCKS,
        dilation_per_block=[1] + [2] * (RES5_BLOCKS - 1),
        in_channels=RES5_IN,
        out_channels=RES5_OUT,
        bottleneck_channels=RES5_WIDTH,
        stride_in_1x1=False,
        norm=norm,
    )
    return [*stages, res5]
