"""The checkpointer loads a file of any dialect without a separate step."""

from __future__ import annotations

import argparse
import logging

import pytest
import torch
from detectron2.modeling.backbone import SwinTransformer

from detrex.checkpoint import Checkpointer, CheckpointError
from detrex.checkpoint.dialects import DETECTORS, from_ours, our_constants
from tests.parity.pairs import ours
from tests.tiny import randomize

FOREIGN = [(dialect, variant) for dialect in DETECTORS for variant in ("plain", "refine", "two_stage")]


def random_model(variant: str, seed: int):
    torch.manual_seed(seed)
    model = ours(variant, full=False)
    randomize(model)
    return model


def foreign_file(dialect, variant: str, path) -> tuple[torch.nn.Module, str]:
    """A model, and its weights in a dialect's layout, as the official training script saves them."""
    model = random_model(variant, seed=0)
    if dialect.unbiased:
        with torch.no_grad():
            for conv in [*model.neck.convs, *model.neck.extra_convs]:
                conv.conv.bias.zero_()
    state = model.state_dict()
    renamed = from_ours(dialect, state, our_constants(state)).state
    torch.save({"model": renamed, "epoch": 49, "args": argparse.Namespace(lr=2e-4)}, path)
    return model, str(path)


@pytest.mark.parametrize(("dialect", "variant"), FOREIGN, ids=lambda x: getattr(x, "name", x))
def test_every_tensor_arrives(dialect, variant, tmp_path, caplog):
    model, path = foreign_file(dialect, variant, tmp_path / "official.pth")
    other = random_model(variant, seed=1)
    assert not torch.equal(other.transformer.level_embeds, model.transformer.level_embeds)
    with caplog.at_level(logging.INFO):
        rest = Checkpointer(other).load(path)
    assert rest["epoch"] == 49
    assert f"in the dialect {dialect.name!r}" in caplog.text
    expected = model.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in other.state_dict().items())


def test_a_tensor_without_a_rule(tmp_path, caplog):
    official = DETECTORS[0]
    model, path = foreign_file(official, "refine", tmp_path / "official.pth")
    data = torch.load(path, weights_only=False)
    data["model"]["mask_head.weight"] = torch.zeros(3)
    torch.save(data, path)
    with pytest.raises(CheckpointError, match=r"official\.pth: official: no rule for 1 tensors: mask_head\.weight"):
        Checkpointer(random_model("refine", seed=1)).load(path)
    other = random_model("refine", seed=1)
    with caplog.at_level(logging.INFO):
        Checkpointer(other, strict=False).load(path)
    assert "1 have no rule and were left out: mask_head.weight" in caplog.text
    assert torch.equal(other.transformer.level_embeds, model.transformer.level_embeds)


@pytest.mark.parametrize("dialect", DETECTORS, ids=lambda x: x.name)
def test_another_number_of_classes(dialect, tmp_path, caplog):
    """Everything else is loaded, and every tensor that starts afresh is named."""
    model, path = foreign_file(dialect, "two_stage", tmp_path / "official.pth")
    data = torch.load(path, weights_only=False)
    classifiers = [name for name in data["model"] if "class_embed" in name or "cls_branches" in name]
    data["model"] |= {name: data["model"][name][:3] for name in classifiers}
    torch.save(data, path)
    with pytest.raises(CheckpointError, match=r"train\.checkpoint\.reinit=\[class_embed\] starts"):
        Checkpointer(random_model("two_stage", seed=1)).load(path)

    other, untouched = random_model("two_stage", seed=1), random_model("two_stage", seed=1).state_dict()
    checkpointer = Checkpointer(other, reinit=["class_embed"])
    with caplog.at_level(logging.INFO):
        checkpointer.load(path)
    names = [name for name in untouched if "class_embed" in name]
    assert sorted(checkpointer.report.reinit) == sorted(names)
    for text in (
        "8 started afresh as allowed: ",
        "decoder.heads.*.class_embed.weight (3)",
        "proposals.head.class_embed",
    ):
        assert text in caplog.text
    expected = model.state_dict()
    for name, value in other.state_dict().items():
        assert torch.equal(value, (untouched if name in names else expected)[name]), name


def assert_backbone_loads(model, state: dict[str, torch.Tensor], path, fresh: int) -> None:
    """All of the model is loaded, except ``fresh`` tensors that the file lacks by nature."""
    torch.save({"model": state}, path)
    checkpointer = Checkpointer(model)
    checkpointer.load(str(path))
    report = checkpointer.report
    assert report.complete
    assert report.prefix == "backbone"
    backbone = [name for name in model.state_dict() if name.startswith("backbone.")]
    assert len(report.reinit) == fresh
    assert len(report.loaded) + fresh == len(backbone)


@pytest.mark.parametrize("source", ["torchvision", "timm"])
def test_resnet_backbone(source, tmp_path):
    if source == "torchvision":
        from torchvision.models import resnet50

        classifier = resnet50()
    else:
        timm = pytest.importorskip("timm")
        classifier = timm.create_model("resnet50")
    for name, buffer in classifier.named_buffers():
        if name.endswith("running_mean"):
            buffer.normal_()
    model = ours("plain", full=True)
    assert_backbone_loads(model, classifier.state_dict(), tmp_path / "resnet.pth", fresh=0)
    block = classifier.layer2[0]
    assert torch.equal(model.backbone.res3[0].conv3.norm.running_mean, block.bn3.running_mean)
    assert torch.equal(model.backbone.res3[0].shortcut.weight, block.downsample[0].weight)


def swin_detector() -> torch.nn.Module:
    """What the checkpointer needs to see: a part ``backbone`` and another."""
    sizes = {"embed_dim": 24, "depths": [2, 2, 2, 2], "num_heads": [1, 2, 2, 4], "window_size": 7}
    backbone = SwinTransformer(pretrain_img_size=224, patch_size=4, out_indices=(1, 2, 3), **sizes)
    return torch.nn.ModuleDict({"backbone": backbone, "head": torch.nn.Linear(3, 2)})


def test_official_swin_backbone(tmp_path):
    """The official file: a classifier's norm and head, and the masks of shifted windows, but no norms of the maps."""
    model = swin_detector()
    state = {
        name.removeprefix("backbone."): torch.randn(value.shape) if value.is_floating_point() else value.clone()
        for name, value in model.state_dict().items()
        if name.startswith("backbone.") and not name.startswith("backbone.norm")
    }
    extra = {"norm.weight": (192,), "norm.bias": (192,), "head.weight": (1000, 192), "head.bias": (1000,)}
    extra["layers.0.blocks.1.attn_mask"] = (64, 49, 49)
    extra = {name: torch.randn(shape) for name, shape in extra.items()}
    assert_backbone_loads(model, state | extra, tmp_path / "swin.pth", fresh=6)
    name = "layers.1.blocks.0.attn.qkv.weight"
    assert torch.equal(model.state_dict()[f"backbone.{name}"], state[name])


def test_timm_swin_backbone(tmp_path):
    timm = pytest.importorskip("timm")
    # At 448 pixels the last stage is larger than its window, which a classifier would not shift otherwise.
    sizes = {"embed_dim": 24, "depths": (2, 2, 2, 2), "num_heads": (1, 2, 2, 4), "window_size": 7}
    classifier = timm.models.swin_transformer.SwinTransformer(img_size=448, **sizes).eval()
    randomize(classifier)
    model = swin_detector().eval()
    state = {name: value for name, value in classifier.state_dict().items() if "attn_mask" not in name}
    has_index = any("relative_position_index" in name for name in state)
    assert_backbone_loads(model, state, tmp_path / "swin.pth", fresh=6 if has_index else 6 + 8)
    # The same features, so that patches are merged in the same order.
    image = torch.randn(1, 3, 448, 448, generator=torch.Generator().manual_seed(0))
    features = []
    classifier.layers[3].register_forward_hook(lambda module, inputs, output: features.append(output))
    with torch.no_grad():
        classifier(image)
        actual = model["backbone"](image)["p3"]
    expected = torch.nn.functional.layer_norm(features[0], features[0].shape[-1:]).permute(0, 3, 1, 2)
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)
