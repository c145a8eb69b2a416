"""ResNet, and what detectors ask of a backbone."""

from __future__ import annotations

import pytest
import torch
from detectron2.layers import FrozenBatchNorm2d, ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY
from detectron2.modeling.backbone import Backbone, BasicStem, BottleneckBlock, ResNet
from detectron2.modeling.backbone.fpn import LastLevelMaxPool, _assert_strides_are_log2_contiguous
from detectron2.modeling.backbone.resnet import BasicBlock, DeformBottleneckBlock
from torch import nn

from .conftest import lite_only


def _small(depth: int = 18, norm: str = "BN", **kwargs) -> ResNet:
    return ResNet(BasicStem(norm=norm), ResNet.make_default_stages(depth, norm=norm), **kwargs)


def test_names_shapes_and_specs() -> None:
    names = ["res2", "res3", "res4", "res5"]
    with torch.device("meta"):
        net = ResNet(
            BasicStem(norm="FrozenBN"),
            ResNet.make_default_stages(50, stride_in_1x1=False, norm="FrozenBN"),
            out_features=names,
        )
    keys = net.state_dict().keys()
    assert len(keys) == 265
    for key in (
        "stem.conv1.weight",
        "stem.conv1.norm.running_var",
        "res2.0.shortcut.norm.bias",
        "res5.2.conv3.weight",
    ):
        assert key in keys
    assert "res2.1.shortcut.weight" not in keys
    assert net.output_shape() == {name: ShapeSpec(channels=256 * 2**i, stride=4 * 2**i) for i, name in enumerate(names)}
    assert net.res3[0].conv2.stride == (2, 2)
    assert net.res3[0].conv1.stride == (1, 1)
    assert (net.size_divisibility, net.padding_constraints) == (0, {})


def test_forward_gives_the_wanted_features() -> None:
    net = _small(num_classes=7, out_features=["stem", "res3", "linear"]).eval()
    features = net(torch.rand(2, 3, 64, 96))
    assert {name: tuple(x.shape) for name, x in features.items()} == {
        "stem": (2, 64, 16, 24),
        "res3": (2, 128, 8, 12),
        "linear": (2, 7),
    }


@lite_only("output_shape() of a classifier is a KeyError")
def test_output_shape_of_a_classifier() -> None:
    assert _small(num_classes=7).output_shape() == {"linear": ShapeSpec(channels=7)}


def test_unused_stages_are_dropped() -> None:
    net = _small(out_features=["res3"])
    assert not hasattr(net, "res4")
    assert list(net(torch.rand(1, 3, 32, 32))) == ["res3"]


def test_default_feature_is_the_last() -> None:
    assert list(_small().output_shape()) == ["res5"]


@pytest.mark.parametrize("wrong", [["res9"], []])
def test_unknown_features_are_refused(wrong) -> None:
    with pytest.raises((AssertionError, ValueError)):
        _small(out_features=wrong)


@pytest.mark.parametrize("freeze_at", [0, 1, 2, 3])
def test_freeze_at(freeze_at) -> None:
    net = _small(freeze_at=freeze_at)
    for index, name in enumerate(["stem", "res2", "res3", "res4"], start=1):
        module = getattr(net, name)
        frozen = index <= freeze_at
        assert all(p.requires_grad != frozen for p in module.parameters())
        assert any(isinstance(m, FrozenBatchNorm2d) for m in module.modules()) == frozen


def test_initialisation_order() -> None:
    """Shortcut, then the convolutions, are created; they are filled in another order: seeds must agree."""
    torch.manual_seed(3)
    block = BottleneckBlock(4, 8, bottleneck_channels=2, norm="")
    torch.manual_seed(3)
    shortcut = nn.Conv2d(4, 8, 1, bias=False)
    convs = [nn.Conv2d(4, 2, 1, bias=False), nn.Conv2d(2, 2, 3, bias=False), nn.Conv2d(2, 8, 1, bias=False)]
    for conv in (*convs, shortcut):
        nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    for ours, theirs in zip((block.conv1, block.conv2, block.conv3, block.shortcut), (*convs, shortcut), strict=True):
        assert torch.equal(ours.weight, theirs.weight)
    assert next(name for name, _ in block.named_parameters()) == "shortcut.weight"  # optimizer states are by position


def test_block_options() -> None:
    block = BottleneckBlock(8, 16, bottleneck_channels=4, stride=2, num_groups=2, stride_in_1x1=True, dilation=2)
    assert (block.conv1.stride, block.conv2.stride, block.conv2.dilation) == ((2, 2), (1, 1), (2, 2))
    assert block.conv2.groups == 2
    assert block(torch.rand(1, 8, 8, 8)).shape == (1, 16, 4, 4)
    assert BasicBlock(8, 8)(torch.rand(1, 8, 8, 8)).shape == (1, 8, 8, 8)


def test_make_stage_spreads_lists() -> None:
    blocks = ResNet.make_stage(BasicBlock, 3, in_channels=8, out_channels=16, stride_per_block=[2, 1, 1], norm="BN")
    assert [(b.in_channels, b.stride) for b in blocks] == [(8, 2), (16, 1), (16, 1)]
    with pytest.raises(AssertionError):
        ResNet.make_stage(BasicBlock, 3, in_channels=8, out_channels=16, stride_per_block=[2, 1])
    with pytest.raises(AssertionError):
        ResNet.make_stage(BasicBlock, 1, in_channels=8, out_channels=16, stride_per_block=[2], stride=1)


@lite_only("deformable convolution has no CPU kernel")
@pytest.mark.parametrize("modulated", [True, False])
def test_deformable_block_starts_as_a_plain_one(modulated) -> None:
    deformable = DeformBottleneckBlock(
        8, 8, bottleneck_channels=4, deform_modulated=modulated, deform_num_groups=2, norm=""
    )
    plain = BottleneckBlock(8, 8, bottleneck_channels=4, norm="")
    plain.load_state_dict({k: v for k, v in deformable.state_dict().items() if "offset" not in k})
    x = torch.rand(1, 8, 6, 6)
    if modulated:  # the mask starts at one half
        plain.conv2.weight.data *= 0.5
    assert torch.allclose(deformable(x), plain(x), atol=1e-5)


def test_backbone_is_abstract() -> None:
    with pytest.raises(TypeError):
        Backbone()

    class Mine(Backbone):
        def __init__(self) -> None:
            super().__init__()
            self._out_features = ["a"]
            self._out_feature_channels, self._out_feature_strides = {"a": 3}, {"a": 2}

        def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"a": x[..., ::2, ::2]}

    assert Mine().output_shape() == {"a": ShapeSpec(channels=3, stride=2)}


def test_registry() -> None:
    def build_contract_backbone(cfg, input_shape):
        return cfg

    BACKBONE_REGISTRY.register(build_contract_backbone)
    assert BACKBONE_REGISTRY.get("build_contract_backbone") is build_contract_backbone


def test_pyramid_pieces() -> None:
    _assert_strides_are_log2_contiguous([4, 8, 16])
    with pytest.raises(AssertionError):
        _assert_strides_are_log2_contiguous([4, 16])
    x = torch.rand(1, 4, 8, 8)
    (p6,) = LastLevelMaxPool()(x)
    assert torch.equal(p6, x[..., ::2, ::2])
