"""Norms, convolutions, suppression."""

from __future__ import annotations

import pytest
import torch
from detectron2.layers import (
    CNNBlockBase,
    Conv2d,
    FrozenBatchNorm2d,
    NaiveSyncBatchNorm,
    ShapeSpec,
    batched_nms,
    cat,
    get_norm,
    move_device_like,
    nonzero_tuple,
)
from detectron2.layers.batch_norm import LayerNorm
from detectron2.layers.mask_ops import paste_masks_in_image
from detectron2.structures import Boxes
from omegaconf import OmegaConf
from torch import nn


def _trained_batch_norm() -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(5)
    nn.init.uniform_(norm.weight)
    nn.init.uniform_(norm.bias)
    norm(torch.rand(4, 5, 3, 3) * 7)
    return norm.eval()


@pytest.mark.parametrize("requires_grad", [True, False])
def test_frozen_batch_norm_computes_batch_norm(requires_grad) -> None:
    norm = _trained_batch_norm()
    frozen = FrozenBatchNorm2d.convert_frozen_batchnorm(norm)
    x = torch.rand(2, 5, 4, 4, requires_grad=requires_grad)
    assert torch.allclose(frozen(x), norm(x), atol=1e-6)
    assert list(frozen.parameters()) == []
    assert {"weight", "bias", "running_mean", "running_var"} <= frozen.state_dict().keys()


def test_frozen_batch_norm_starts_as_the_identity() -> None:
    x = torch.rand(2, 3, 4, 4)
    assert torch.allclose(FrozenBatchNorm2d(3)(x), x, atol=1e-6)


def test_frozen_batch_norm_loads_old_files() -> None:
    frozen = FrozenBatchNorm2d(3)
    old = {"weight": torch.full((3,), 2.0), "bias": torch.ones(3)}
    assert frozen.load_state_dict(old).missing_keys == []
    x = torch.rand(1, 3, 2, 2)
    assert torch.allclose(frozen(x), 2 * x + 1, atol=1e-4)


def test_freezing_a_block() -> None:
    class Block(CNNBlockBase):
        def __init__(self) -> None:
            super().__init__(3, 5, 2)
            self.conv = Conv2d(3, 5, 3, stride=2, norm=_trained_batch_norm(), activation=torch.relu)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.conv(x)

    block = Block().eval()
    x = torch.rand(1, 3, 9, 9)
    before = block(x)
    assert block.freeze() is block
    assert isinstance(block.conv.norm, FrozenBatchNorm2d)
    assert not any(p.requires_grad for p in block.parameters())
    assert torch.allclose(block(x), before, atol=1e-6)
    assert (block.in_channels, block.out_channels, block.stride) == (3, 5, 2)
    assert before.min() >= 0


@pytest.mark.parametrize(
    ("norm", "kind"),
    [
        ("BN", nn.BatchNorm2d),
        ("SyncBN", nn.SyncBatchNorm),
        ("nnSyncBN", nn.SyncBatchNorm),
        ("naiveSyncBN", NaiveSyncBatchNorm),
        ("naiveSyncBN_N", NaiveSyncBatchNorm),
        ("FrozenBN", FrozenBatchNorm2d),
        ("GN", nn.GroupNorm),
        ("LN", LayerNorm),
        (nn.BatchNorm2d, nn.BatchNorm2d),
    ],
)
def test_get_norm(norm, kind) -> None:
    assert type(get_norm(norm, 32)) is kind


def test_get_norm_of_nothing() -> None:
    assert get_norm("", 3) is None
    assert get_norm(None, 3) is None
    with pytest.raises(KeyError):
        get_norm("nope", 3)


def test_naive_sync_norm_is_batch_norm_in_one_process() -> None:
    x = torch.rand(2, 4, 3, 3)
    assert torch.allclose(NaiveSyncBatchNorm(4)(x), nn.BatchNorm2d(4)(x))
    with pytest.raises(AssertionError):
        NaiveSyncBatchNorm(4, stats_mode="?")


def test_layer_norm_normalises_channels() -> None:
    x = torch.rand(2, 6, 3, 4)
    expected = nn.functional.layer_norm(x.permute(0, 2, 3, 1), (6,), eps=1e-6).permute(0, 3, 1, 2)
    assert torch.allclose(LayerNorm(6)(x), expected, atol=1e-5)


def test_shape_spec_survives_omegaconf() -> None:
    spec = ShapeSpec(channels=8, stride=4)
    assert spec == ShapeSpec(8, None, None, 4)
    config = OmegaConf.create({"x": {"res2": spec}}, flags={"allow_objects": True})
    assert (config.x.res2.channels, config.x.res2.height) == (8, None)
    assert f"{ShapeSpec.__module__}.{ShapeSpec.__qualname__}" == "detectron2.layers.shape_spec.ShapeSpec"


def test_batched_nms_works_within_classes() -> None:
    boxes = torch.tensor([[0, 0, 10, 10], [0, 0, 10, 9], [0, 0, 10, 10]], dtype=torch.float16)
    kept = batched_nms(boxes, torch.tensor([0.5, 0.9, 0.7]), torch.tensor([0, 0, 1]), 0.5)
    assert kept.tolist() == [1, 2]


def test_small_helpers() -> None:
    x = torch.tensor([0, 3, 0, 4])
    assert cat([x]) is x
    assert cat([x, x]).shape == (8,)
    assert nonzero_tuple(x)[0].tolist() == [1, 3]
    assert move_device_like(x, torch.zeros(1)).device.type == "cpu"


def test_pasting_masks() -> None:
    masks = torch.zeros(2, 4, 4)
    masks[0] = 1
    masks[1, :2] = 1  # upper half
    pasted = paste_masks_in_image(masks, Boxes([[2, 3, 10, 11], [0, 0, 8, 8]]), (16, 20))
    assert pasted.shape == (2, 16, 20)
    assert pasted[0].sum() == 64
    assert pasted[0, 3:11, 2:10].all()
    assert pasted[1].sum() == 32
    assert pasted[1, :4, :8].all()
    assert len(paste_masks_in_image(masks[:0], Boxes([]), (16, 20))) == 0
