"""Swin Transformer."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.layers import ShapeSpec
from detectron2.modeling import SwinTransformer
from torch import nn

from .conftest import lite_only

SMALL = {"embed_dim": 12, "depths": (2, 2, 2, 1), "num_heads": (1, 2, 3, 4), "window_size": 4}


def test_names_and_specs() -> None:
    net = SwinTransformer(**SMALL)
    keys = net.state_dict().keys()
    for key in (
        "patch_embed.proj.weight",
        "patch_embed.norm.bias",
        "layers.0.blocks.1.attn.qkv.bias",
        "layers.0.blocks.1.attn.relative_position_bias_table",
        "layers.0.blocks.1.attn.relative_position_index",
        "layers.2.blocks.0.mlp.fc2.weight",
        "layers.2.downsample.reduction.weight",
        "layers.0.downsample.norm.weight",
        "norm3.weight",
    ):
        assert key in keys
    assert "layers.3.downsample.norm.weight" not in keys
    assert net.output_shape() == {f"p{i}": ShapeSpec(channels=12 * 2**i, stride=4 * 2**i) for i in range(4)}


def test_any_size_works() -> None:
    net = SwinTransformer(**SMALL, out_indices=(1, 3)).eval()
    features = net(torch.rand(2, 3, 50, 71))
    assert {name: tuple(x.shape) for name, x in features.items()} == {"p1": (2, 24, 7, 9), "p3": (2, 96, 2, 3)}
    assert not hasattr(net, "norm0")


def test_windows_stay_apart_but_for_the_shift() -> None:
    """Without shift a token sees its window; the second, shifted block reaches half a window further."""
    for depth, reach in ((1, range(4)), (2, range(6))):
        net = SwinTransformer(embed_dim=4, depths=(depth,), num_heads=(1,), window_size=4, out_indices=(0,)).eval()
        image = torch.rand(1, 3, 16, 48)
        changed = image.clone()
        changed[..., :4, :4] += 1  # token (0, 0)
        difference = (net(image)["p0"] - net(changed)["p0"]).abs().amax(dim=(0, 1, 2)) > 1e-6
        assert set(difference.nonzero().flatten().tolist()) <= set(reach)
        assert difference[0]
        assert difference[:4].all()


def test_drop_path_only_in_training() -> None:
    torch.manual_seed(0)
    net = SwinTransformer(**SMALL, drop_path_rate=0.9)
    x = torch.rand(1, 3, 32, 32)
    net.train()
    assert not torch.equal(net(x)["p3"], net(x)["p3"])
    net.eval()
    assert torch.equal(net(x)["p3"], net(x)["p3"])


@pytest.mark.filterwarnings("ignore")
def test_checkpointing_changes_nothing_but_memory() -> None:
    net = SwinTransformer(**SMALL, drop_path_rate=0.0)
    lean = SwinTransformer(**SMALL, drop_path_rate=0.0, use_checkpoint=True)
    lean.load_state_dict(net.state_dict())
    gradients = []
    for model in (net, lean):
        sum(x.square().mean() for x in model(torch.ones(1, 3, 32, 32, requires_grad=True)).values()).backward()
        gradients.append(model.layers[0].blocks[0].attn.qkv.weight.grad)
    assert torch.allclose(*gradients, atol=1e-7)


@lite_only("reentrant checkpointing gives no gradients when the input needs none (frozen patch embedding)")
def test_checkpointing_with_a_frozen_stem() -> None:
    net = SwinTransformer(**SMALL, drop_path_rate=0.0, use_checkpoint=True, frozen_stages=0)
    net(torch.rand(1, 3, 32, 32))["p3"].square().mean().backward()
    assert net.layers[0].blocks[0].attn.qkv.weight.grad is not None
    assert net.patch_embed.proj.weight.grad is None


def test_frozen_stages() -> None:
    net = SwinTransformer(**SMALL, ape=True, pretrain_img_size=32, frozen_stages=2)
    assert not net.absolute_pos_embed.requires_grad
    for module, frozen in ((net.patch_embed, True), (net.layers[0], True), (net.layers[1], False)):
        assert all(p.requires_grad != frozen for p in module.parameters())


@lite_only("train() switches the stochastic depth of frozen stages on again")
def test_frozen_stages_stay_in_evaluation_mode() -> None:
    net = SwinTransformer(**SMALL, frozen_stages=2).train()
    assert not net.layers[0].training
    assert net.layers[1].training


@lite_only("size_divisibility is an AttributeError")
def test_size_divisibility() -> None:
    assert SwinTransformer(**SMALL).size_divisibility == 32


@lite_only("position tables of another window size do not load")
def test_position_tables_of_another_window_size() -> None:
    small, large = SwinTransformer(**SMALL), SwinTransformer(**(SMALL | {"window_size": 8}))
    table = "layers.0.blocks.0.attn.relative_position_bias_table"
    state = small.state_dict()
    state[table] = torch.arange(7.0)[:, None].expand(7, 7).reshape(49, 1)  # a ramp over rows
    assert not large.load_state_dict(state).missing_keys
    loaded = large.state_dict()[table].view(15, 15)
    assert (loaded.diff(dim=0) > -1e-6).all()
    assert torch.allclose(loaded[:, 0], loaded[:, 7], atol=1e-5)
    assert loaded[7, 7] == pytest.approx(3.0, abs=1e-5)
    large(torch.rand(1, 3, 64, 64))


@lite_only("position tables of another window size do not load")
@pytest.mark.parametrize(("wrapped", "options"), [(False, ""), (True, "?matching_heuristics=True")])
def test_checkpoints_of_another_window_size(tmp_path: Path, wrapped: bool, options: str) -> None:
    small, large = SwinTransformer(**SMALL), SwinTransformer(**(SMALL | {"window_size": 8}))
    model = nn.ModuleDict({"backbone": large}) if wrapped else large
    torch.save({"model": small.state_dict()}, tmp_path / "small.pth")
    expected = SwinTransformer(**(SMALL | {"window_size": 8}))
    expected.load_state_dict(small.state_dict())
    DetectionCheckpointer(model).load(f"{tmp_path}/small.pth{options}")
    for name, value in expected.state_dict().items():
        assert torch.equal(large.state_dict()[name], value), name


@lite_only("absolute position embeddings of another image size do not load")
def test_absolute_position_embedding_of_another_image_size() -> None:
    small = SwinTransformer(**SMALL, ape=True, pretrain_img_size=32)
    large = SwinTransformer(**SMALL, ape=True, pretrain_img_size=64)
    state = small.state_dict()
    state["absolute_pos_embed"] = state["absolute_pos_embed"].flatten(2).transpose(1, 2)  # as published
    large.load_state_dict(state)
    means = [net.absolute_pos_embed.mean().item() for net in (small, large)]
    assert means[0] == pytest.approx(means[1], abs=1e-3)


@lite_only("constructors read numbers from tensors")
def test_builds_on_the_meta_device() -> None:
    with torch.device("meta"):
        assert SwinTransformer(**SMALL).patch_embed.proj.weight.is_meta
