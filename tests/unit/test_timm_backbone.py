"""Backbones of timm and torchvision: maps, shapes, frozen parts, weights, learning rates."""

from __future__ import annotations

import logging

import pytest
import torch
from detectron2.config import LazyCall as L
from detectron2.config import instantiate
from omegaconf import OmegaConf
from tiny import EMBED_DIM, NUM_LEVELS, image_input, tiny_detector
from torch import nn

from detrex.checkpoint import Checkpointer
from detrex.config import ConfigError, get_config
from detrex.config.instantiation import build, meta_device
from detrex.modeling.backbone import TimmBackbone, TorchvisionBackbone
from detrex.modeling.neck import ChannelMapper
from detrex.solver.param_groups import layer_decay_params
from projects.deformable_detr.modeling import DeformableDETR

timm = pytest.importorskip("timm", reason="pip install 'detrex[timm]'")

BACKBONES = get_config("common/models/backbones.py")
ENTRIES = [name for name, entry in BACKBONES.items() if "TimmBackbone" in str(entry.backbone["_target_"])]
# The smallest model of each family; the others differ in width and depth.
SMALL = {
    "resnet": "resnet10t.c3_in1k",
    "resnetd": "resnet18d.ra2_in1k",
    "mobilenetv4": "mobilenetv4_conv_small.e2400_r224_in1k",
    "efficientnet": "efficientnet_lite0.ra_in1k",
    "convnext": "convnext_atto.d2_in1k",
    "convnextv2": "convnextv2_atto.fcmae",
    "swin": "swin_tiny_patch4_window7_224.ms_in1k",
    "swinv2": "swinv2_tiny_window8_256.ms_in1k",
    "focalnet": "focalnet_tiny_srf.ms_in1k",
}


def detector_on(backbone) -> DeformableDETR:
    """A small detector that takes channels and normalization from the backbone."""
    parts = tiny_detector("two_stage")
    return DeformableDETR(
        num_classes=3,
        backbone=backbone,
        neck=ChannelMapper(out_channels=EMBED_DIM, num_outs=NUM_LEVELS),
        transformer=parts.transformer,
        criterion=parts.criterion,
    )


@pytest.mark.parametrize("name", ENTRIES)
def test_every_named_backbone_builds_on_the_meta_device(name):
    with meta_device():
        backbone = instantiate(BACKBONES[name].backbone)
    shapes = backbone.output_shape()
    assert [shape.stride for shape in shapes.values()] == [8, 16, 32]
    maps = backbone.eval()(torch.empty(1, 3, 128, 128, device="meta"))
    assert {n: (x.shape[1], 128 // x.shape[-1]) for n, x in maps.items()} == {
        n: (s.channels, s.stride) for n, s in shapes.items()
    }


@pytest.mark.parametrize("model_name", SMALL.values(), ids=SMALL)
def test_one_training_step_at_128_pixels(model_name):
    torch.manual_seed(0)
    detector = detector_on(TimmBackbone(model_name, norm_layer=None)).train()
    inputs = [image_input(128, 128, boxes=2, seed=0), image_input(101, 128, boxes=1, seed=1)]
    optimizer = torch.optim.SGD(detector.parameters(), lr=0.1)
    first = next(detector.backbone.parameters())
    before = first.detach().clone()
    losses = detector(inputs)
    sum(losses.values()).backward()
    optimizer.step()
    assert all(torch.isfinite(x) for x in losses.values())
    assert all(torch.isfinite(p.grad).all() for p in detector.backbone.parameters())
    assert not torch.equal(first, before)


@pytest.mark.parametrize(
    "model_name", ["resnet10t", "convnext_atto", "swin_tiny_patch4_window7_224", "efficientnet_lite0"]
)
def test_maps_are_those_of_features_only(model_name):
    backbone = TimmBackbone(model_name, out_indices=(1, -1)).eval()
    indices = [1, len(backbone.timm_model.feature_info) - 1]
    reference = timm.create_model(model_name, features_only=True, out_indices=indices).eval()
    own = {name.replace(".", "_"): value for name, value in backbone.timm_model.state_dict().items()}
    reference.load_state_dict({name: own[name.replace(".", "_")] for name in reference.state_dict()})
    x = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        maps, expected = backbone(x), reference(x)
    assert list(maps) == [f"p{i}" for i in indices] == list(backbone.output_shape())
    for found, wanted in zip(maps.values(), expected, strict=True):
        nhwc = wanted.shape[1] != found.shape[1]
        torch.testing.assert_close(found, wanted.permute(0, 3, 1, 2) if nhwc else wanted)


def test_frozen_batch_norms_keep_the_activation():
    plain, frozen = (TimmBackbone("efficientnet_lite0", norm_layer=norm) for norm in (None, "FrozenBN"))
    assert not [m for m in frozen.modules() if isinstance(m, nn.BatchNorm2d)]
    frozen.load_state_dict({k: v for k, v in plain.state_dict().items() if "num_batches" not in k})
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        for found, wanted in zip(frozen.train()(x).values(), plain.eval()(x).values(), strict=True):
            torch.testing.assert_close(found, wanted)


def test_frozen_stages_and_statistics_rest():
    backbone = TimmBackbone("resnet10t", freeze_at=2, norm_layer="FrozenStatistics").train()
    trained = {name.split(".")[1] for name, p in backbone.named_parameters() if p.requires_grad}
    assert trained == {"layer2", "layer3", "layer4"}
    before = {name: value.clone() for name, value in backbone.named_buffers()}
    sum(x.sum() for x in backbone(torch.randn(2, 3, 64, 64)).values()).backward()
    assert all(torch.equal(value, before[name]) for name, value in backbone.named_buffers())
    assert all(p.grad is not None for p in backbone.parameters() if p.requires_grad)


def test_recomputation_changes_no_gradient():
    torch.manual_seed(0)
    plain, recomputed = (TimmBackbone("convnext_atto", use_checkpoint=flag).train() for flag in (False, True))
    recomputed.load_state_dict(plain.state_dict())
    x = torch.randn(1, 3, 64, 64)
    for backbone in (plain, recomputed):
        sum(y.square().mean() for y in backbone(x).values()).backward()
    for a, b in zip(plain.parameters(), recomputed.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"model_name": "resnet5"}, "did you mean"),
        ({"model_name": "hf-hub:someone/model"}, "has no model"),
        ({"model_name": "resnet18.no_such_tag"}, "no_such_tag"),
        ({"model_name": "resnet18", "out_indices": (7,)}, "has the maps 0 to 4"),
        ({"model_name": "vgg11", "drop_path_rate": 0.1}, "takes no drop_path_rate"),
        ({"model_name": "resnet18", "norm_layer": "SyncBM"}, "FrozenBN"),
        ({"model_name": "resnet18", "features_only": False}, "features_only"),
    ],
    ids=lambda x: str(x)[:40],
)
def test_a_mistake_in_the_config_is_one_line(arguments, message):
    cfg = OmegaConf.create({"backbone": L(TimmBackbone)(**arguments)}, flags={"allow_objects": True})
    with pytest.raises(ConfigError, match=message):
        build(cfg, "backbone")


def test_without_timm_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "timm", None)
    cfg = OmegaConf.create({"backbone": L(TimmBackbone)(model_name="resnet18")}, flags={"allow_objects": True})
    with pytest.raises(ConfigError, match=r"detrex\[timm\]"):
        build(cfg, "backbone")


# ------------------------------------------------------------------------------------------------------------- weights
def test_weights_from_a_file(tmp_path, caplog):
    published = timm.create_model("convnext_atto")
    torch.save(published.state_dict(), tmp_path / "model.pth")
    backbone = TimmBackbone("convnext_atto", checkpoint_path=str(tmp_path / "model.pth"))
    name = "stages.1.blocks.0.mlp.fc1.weight"
    assert not torch.equal(backbone.timm_model.get_parameter(name), published.get_parameter(name))
    with caplog.at_level(logging.INFO):
        backbone.load_pretrained_weights()
    for key, value in backbone.timm_model.state_dict().items():
        assert torch.equal(value, published.state_dict()[key]), key
    assert "pretrained tensors from" in caplog.text


def test_grayscale_images_get_adapted_weights(tmp_path):
    published = timm.create_model("resnet10t")
    torch.save(published.state_dict(), tmp_path / "model.pth")
    backbone = TimmBackbone("resnet10t", in_channels=1, checkpoint_path=str(tmp_path / "model.pth"))
    backbone.load_pretrained_weights()
    first = published.get_parameter("conv1.0.weight").sum(1, keepdim=True)
    torch.testing.assert_close(backbone.timm_model.get_parameter("conv1.0.weight"), first)


@pytest.mark.parametrize("damage", ["absent", "another model", "half"])
def test_a_file_without_the_weights_is_an_error(damage, tmp_path):
    path = tmp_path / "model.pth"
    if damage == "another model":
        torch.save({"model.weight": torch.zeros(3)}, path)
    elif damage == "half":
        state = timm.create_model("convnext_atto").state_dict()
        torch.save({k: v for k, v in state.items() if not k.startswith("stages.3")}, path)
    backbone = TimmBackbone("convnext_atto", checkpoint_path=str(path))
    with pytest.raises(ValueError, match=r"checkpoint_path=.*model\.pth does not give the weights of convnext_atto"):
        backbone.load_pretrained_weights()


def test_without_a_network_the_error_says_which_file_to_put_where(monkeypatch):
    def unreachable(*args, **kwargs):
        raise ConnectionError(101, "Network is unreachable")

    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", unreachable)
    backbone = TimmBackbone("convnext_tiny.fb_in22k", pretrained=True)
    with pytest.raises(ValueError, match=r"https://huggingface.co/timm/convnext_tiny.fb_in22k .*set checkpoint_path="):
        backbone.load_pretrained_weights()


@pytest.mark.parametrize("model_name", ["convnext_atto", "resnet18", "swin_tiny_patch4_window7_224"])
def test_a_file_of_timm_is_a_checkpoint_to_start_from(model_name, tmp_path):
    published = timm.create_model(model_name)
    torch.save(published.state_dict(), tmp_path / "model.pth")
    detector = detector_on(TimmBackbone(model_name, norm_layer="FrozenBN"))
    Checkpointer(detector).load(str(tmp_path / "model.pth"))
    for name, value in detector.backbone.timm_model.state_dict().items():
        assert torch.equal(value, published.state_dict()[name]), name


# --------------------------------------------------------------------------------------------------------------- solver
@pytest.mark.parametrize("model_name", ["convnext_atto", "swin_tiny_patch4_window7_224", "vit_tiny_patch16_224"])
def test_learning_rates_fall_towards_the_input(model_name):
    with meta_device():
        model = nn.ModuleDict({"backbone": TimmBackbone(model_name), "head": nn.Linear(2, 2)})
    groups = layer_decay_params(model=model, base_lr=1.0, layer_decay=0.5)
    names = {p: name for name, p in model.named_parameters()}
    rates = {names[p]: group["lr"] for group in groups for p in group["params"]}
    assert rates.keys() == set(names.values())
    assert rates["head.weight"] == 1.0
    layers = model["backbone"].layer_ids()
    assert max(rates[f"backbone.{n}"] for n in layers) == 0.5
    assert min(rates.values()) == 0.5 ** (max(layers.values()) + 1)
    first, last = next(iter(layers)), max(layers, key=layers.get)
    assert rates[f"backbone.{first}"] < rates[f"backbone.{last}"]
    for group in groups:
        undecayed = [n for n in (names[p] for p in group["params"]) if "pos_embed" in n or "position_bias_table" in n]
        assert not undecayed or group["weight_decay"] == 0


def test_layer_decay_needs_a_backbone_that_knows_its_layers():
    model = nn.ModuleDict({"backbone": nn.Conv2d(3, 3, 1)})
    with pytest.raises(ConfigError, match="does not know its layers"):
        layer_decay_params(model=model, base_lr=1.0, layer_decay=0.5)


# ---------------------------------------------------------------------------------------------------------- torchvision
def test_torchvision_backbone():
    backbone = TorchvisionBackbone("resnet18", norm_layer="FrozenBN")
    assert {n: (s.channels, s.stride) for n, s in backbone.output_shape().items()} == {
        "res2": (64, 4), "res3": (128, 8), "res4": (256, 16), "res5": (512, 32)
    }  # fmt: skip
    detector = detector_on(TorchvisionBackbone("resnet18", return_nodes={"layer3": "res4", "layer4": "res5"})).train()
    sum(detector([image_input(96, 128, boxes=2)]).values()).backward()
    assert all(p.grad is not None for p in detector.backbone.parameters())
    torch.testing.assert_close(detector.pixel_mean.flatten(), torch.tensor([123.675, 116.28, 103.53]))


def test_torchvision_without_a_network_says_where_the_file_belongs(monkeypatch):
    def unreachable(*args, **kwargs):
        raise ConnectionError(101, "Network is unreachable")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", unreachable)
    backbone = TorchvisionBackbone("resnet18", pretrained=True)
    with pytest.raises(ValueError, match=r"resnet18-f37072fd.pth .*put it at .*checkpoints/resnet18-f37072fd.pth"):
        backbone.load_pretrained_weights()
