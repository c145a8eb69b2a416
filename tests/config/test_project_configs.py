"""Every config file loads, and builds on the meta device."""

from __future__ import annotations

import functools
import re
from pathlib import Path

import pytest
import torch
from detectron2.config import instantiate

from detrex.config import get_config, load_config, save_config, validate_config
from detrex.config.instantiation import meta_device
from detrex.modeling import TwoStageQueries
from detrex.solver.param_groups import build_optimizer
from projects.h_deformable_detr.modeling import HybridCriterion

ROOT = Path(__file__).parents[2]
CONFIGS = sorted(p for p in ROOT.glob("projects/*/configs/*.py"))
LR_DROP = {12: 11, 24: 20, 36: 30, 50: 40}


_load = functools.cache(load_config)  # for tests that change nothing


def _build(node):
    with meta_device():
        return instantiate(node)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_builds_on_the_meta_device(path):
    cfg = _load(path)
    assert set(cfg) == {"model", "dataloader", "optimizer", "lr_multiplier", "train"}
    validate_config(cfg)
    model = _build(cfg.model)
    assert {p.device.type for p in model.parameters()} == {"meta"}
    assert model.transformer.decoder.heads[0].class_embed.out_features == cfg.model.num_classes
    assert model.criterion.num_classes == cfg.model.num_classes
    assert isinstance(model.criterion, HybridCriterion) == (cfg.model.transformer.queries.groups.one2many > 0)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_names_say_what_the_config_does(path):
    cfg, name = _load(path), path.stem
    assert Path(cfg.train.output_dir).name == name
    assert f"configs/{name}.py" in path.read_text() or "demo_shapes" in name or "_official" in name
    if epochs := re.search(r"_(\d+)ep", name):
        epochs = int(epochs[1])
        assert cfg.train.max_iter == f"{epochs}ep"
        scheduler = cfg.lr_multiplier.scheduler
        assert list(scheduler["values"]) == [1.0, 0.1]
        assert scheduler.milestones[0] / scheduler.num_updates == LR_DROP[epochs] / epochs
    if "two_stage" in name or "h_deformable" in name:
        assert isinstance(_build(cfg.model).transformer.queries, TwoStageQueries)
    assert cfg.model.transformer.queries.groups.one2one == (
        900 if "900queries" in name else 30 if "demo" in name else 300
    )
    assert cfg.optimizer.weight_decay == (0.05 if "decay0p05" in name else 1e-4)
    if "swin" in name:
        assert cfg.model.backbone.drop_path_rate == (0.5 if "swin_large_two_stage_36ep" in name else 0.2)
        depths, width = {"tiny": ((2, 2, 6, 2), 96), "smal": ((2, 2, 18, 2), 96), "larg": ((2, 2, 18, 2), 192)}[
            re.search("swin_(....)", name)[1]
        ]
        assert (tuple(cfg.model.backbone.depths), cfg.model.backbone.embed_dim) == (depths, width)
        assert ("22k" in cfg.train.init_checkpoint) == ("22k" in name or "large" in name)


@pytest.mark.parametrize("name", ["h_deformable_detr_r50_50ep", "h_deformable_detr_swin_tiny_two_stage_12ep_decay0p05"])
def test_a_config_survives_being_saved(name, tmp_path):
    cfg = load_config(ROOT / f"projects/h_deformable_detr/configs/{name}.py")
    save_config(cfg, tmp_path / "config.yaml")
    again = load_config(tmp_path / "config.yaml")
    models = _build(cfg.model), _build(again.model)
    assert repr(models[0]) == repr(models[1])
    rates = [
        [(group["lr"], group["weight_decay"], len(group["params"])) for group in build_optimizer(x, model).param_groups]
        for x, model in zip((cfg, again), models, strict=True)
    ]
    assert rates[0] == rates[1]


# Tensors and values of the state dicts that the published code makes (91 classes), shared tensors counted once.
PUBLISHED_STATES = {
    "deformable_detr/configs/deformable_detr_r50_single_scale_50ep": (509, 34172833),
    "deformable_detr/configs/deformable_detr_r50_single_scale_dc5_50ep": (509, 34172833),
    "deformable_detr/configs/deformable_detr_r50_50ep": (521, 40175905),
    "deformable_detr/configs/deformable_detr_r50_with_box_refinement_50ep": (561, 40955900),
    "deformable_detr/configs/deformable_detr_r50_two_stage_50ep": (574, 41287769),
    "h_deformable_detr/configs/h_deformable_detr_r50_50ep": (575, 48052313),
    "h_deformable_detr/configs/h_deformable_detr_swin_tiny_two_stage_12ep": (497, 48517919),
    "h_deformable_detr/configs/deformable_detr_baseline_r50_two_stage_12ep": (574, 47591513),
}


@pytest.mark.parametrize(("name", "expected"), PUBLISHED_STATES.items())
def test_the_model_has_as_many_tensors_and_values_as_the_published_one(name, expected):
    state = _build(load_config(ROOT / f"projects/{name}.py", ["model.num_classes=91"]).model).state_dict(keep_vars=True)
    unique = {id(tensor): tensor.numel() for tensor in state.values()}
    assert (len(unique), sum(unique.values())) == expected


@pytest.mark.parametrize(
    ("name", "millions"),
    [("deformable_detr_r50_50ep", 40.1), ("deformable_detr_r50_with_box_refinement_50ep", 40.8),
     ("deformable_detr_r50_two_stage_50ep", 41.2)],
)  # fmt: skip
def test_parameters_are_those_of_the_paper(name, millions):
    model = _build(load_config(ROOT / f"projects/deformable_detr/configs/{name}.py").model)
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, abs=0.1)


def test_one_number_sizes_the_model():
    cfg = load_config(ROOT / "projects/deformable_detr/configs/deformable_detr_r50_two_stage_50ep.py")
    cfg.model.num_classes = 7
    cfg.model.transformer.embed_dim = 128
    cfg.model.transformer.num_feature_levels = 5
    cfg.model.transformer.queries.groups.one2one = 11
    model = _build(cfg.model)
    assert model.transformer.queries.proposals.head.class_embed.out_features == 7
    assert model.transformer.decoder.heads[-1].class_embed.weight.shape == (7, 128)
    assert model.transformer.level_embeds.shape == (5, 128)
    assert len(model.neck.convs) + len(model.neck.extra_convs) == 5
    assert model.transformer.queries.groups.capacity == 11


@pytest.mark.parametrize("variant", ["", "_with_box_refinement", "_two_stage"])
def test_the_official_recipe_differs_in_the_documented_values(variant):
    folder = ROOT / "projects/deformable_detr/configs"
    ours = _load(folder / f"deformable_detr_r50{variant}_50ep.py")
    official = _load(folder / f"deformable_detr_r50{variant}_50ep_official.py")
    assert (ours.optimizer.lr, official.optimizer.lr) == (1e-4, 2e-4)
    assert (ours.dataloader.train.total_batch_size, official.dataloader.train.total_batch_size) == (16, 32)
    assert (ours.model.backbone.freeze_at, official.model.backbone.freeze_at) == (1, 2)
    assert (ours.model.num_select, official.model.num_select) == (300, 100)
    assert official.model.criterion.weights.class_ == 2.0
    assert ours.model.criterion.weights.class_ == (2.0 if variant == "" else 1.0)
    for cfg in (ours, official):
        assert cfg.train.clip_grad.enabled
        assert cfg.train.clip_grad.params.max_norm == 0.1
        assert cfg.train.max_iter == "50ep"
        assert cfg.optimizer.weight_decay == 1e-4


@pytest.mark.parametrize(
    ("name", "decay"),
    [
        ("deformable_detr/configs/deformable_detr_r50_50ep_official", 1e-4),
        ("h_deformable_detr/configs/h_deformable_detr_r50_two_stage_12ep", 1e-4),
        ("h_deformable_detr/configs/h_deformable_detr_swin_tiny_two_stage_36ep_decay0p05", 0.05),
    ],
)
def test_the_ordinary_trainer_gets_the_published_optimizer(name, decay):
    """2e-4, a tenth of it for backbone, sampling offsets and reference points; decay everywhere, norms included."""
    cfg = load_config(ROOT / f"projects/{name}.py")
    model = _build(cfg.model)
    names = {id(p): name for name, p in model.named_parameters()}
    seen = 0
    for group in build_optimizer(cfg, model).param_groups:
        assert group["weight_decay"] == decay
        for parameter in group["params"]:
            slow = re.search(r"^backbone\.|sampling_offsets|reference_points", names[id(parameter)])
            assert group["lr"] == pytest.approx(2e-5 if slow else 2e-4)
            seen += 1
    assert seen == sum(p.requires_grad for p in model.parameters())
    assert cfg.train.clip_grad.params.max_norm == 0.1
    assert cfg.dataloader.train.total_batch_size == (32 if "official" in name else 16)


def test_the_learning_rate_is_an_override_away():
    cfg = load_config(ROOT / "projects/h_deformable_detr/configs/h_deformable_detr_r50_50ep.py", ["optimizer.lr=1e-3"])
    rates = {group["lr"] for group in build_optimizer(cfg, _build(cfg.model)).param_groups}
    assert sorted(rates) == pytest.approx([1e-4, 1e-3])


@pytest.mark.parametrize(("backbone", "epochs"), [("r50", 12), ("swin_tiny", 36), ("swin_large", 36)])
def test_the_baselines_lack_the_branch_and_the_tricks(backbone, epochs):
    folder = ROOT / "projects/h_deformable_detr/configs"
    name = f"{backbone}_two_stage_{epochs}ep"
    hybrid = _load(folder / f"h_deformable_detr_{name}.py")
    tricks = _load(folder / f"deformable_detr_baseline_{name}_tricks.py")
    plain = _load(folder / f"deformable_detr_baseline_{name}.py")
    assert hybrid.model.criterion.num_repeats == 6
    assert hybrid.model.criterion.one2many_weight == 1.0
    assert hybrid.model.transformer.queries.groups.one2many == 1500
    for cfg, dropout, content, policy in (
        (hybrid, 0.0, "learned", "LookForwardTwice"),
        (tricks, 0.0, "learned", "LookForwardTwice"),
        (plain, 0.1, "proposal", "IterativeRefinement"),
    ):
        model = _build(cfg.model)
        assert {module.p for module in model.transformer.modules() if isinstance(module, torch.nn.Dropout)} == {dropout}
        assert cfg.model.transformer.queries.content == content
        assert type(model.transformer.decoder.refinement).__name__ == policy
        assert cfg.model.transformer.encoder.feedforward_dim == 2048
        assert model.criterion.weights.class_ == 2.0
        assert cfg.optimizer == hybrid.optimizer


@pytest.mark.parametrize(("name", "stride"), [("single_scale", 32), ("single_scale_dc5", 16)])
def test_one_scale_is_res5_alone(name, stride):
    cfg = load_config(ROOT / f"projects/deformable_detr/configs/deformable_detr_r50_{name}_50ep.py")
    model = _build(cfg.model)
    maps = model.backbone(torch.empty(1, 3, 96, 160, device="meta"))
    assert {key: tuple(x.shape) for key, x in maps.items()} == {"res5": (1, 2048, 96 // stride, 160 // stride)}
    (level,) = model.neck(maps)
    assert level.shape == (1, 256, 96 // stride, 160 // stride)
    assert cfg.model.neck.input_shapes.res5.stride == stride
    assert model.transformer.level_embeds.shape == (1, 256)


@pytest.mark.parametrize("entry", ["resnet50_dc5", "resnet101_dc5"])
def test_the_first_block_of_a_dc5_stage_is_not_dilated(entry):
    backbone = _build(get_config("common/models/backbones.py")[entry].backbone)
    convs = [(block.conv2.stride, block.conv2.dilation, block.conv2.padding) for block in backbone.res5]
    assert convs == [((1, 1), (1, 1), (1, 1)), ((1, 1), (2, 2), (2, 2)), ((1, 1), (2, 2), (2, 2))]
    assert backbone.res5[0].shortcut.stride == (1, 1)


def _detectron2_name(name: str) -> str:
    name = re.sub(r"^layer(\d)", lambda m: f"res{int(m[1]) + 1}", re.sub(r"^(conv1|bn1)\.", r"stem.\1.", name))
    return re.sub(
        r"bn(\d)", r"conv\1.norm", name.replace("downsample.0", "shortcut").replace("downsample.1", "shortcut.norm")
    )


@torch.no_grad()
def test_a_dc5_resnet_is_torchvisions():
    """The same weights, by torchvision's dilated ResNet and by ours, give the same map."""
    from torchvision.models.resnet import Bottleneck, ResNet

    theirs = ResNet(Bottleneck, [3, 4, 6, 3], replace_stride_with_dilation=[False, False, True]).eval()
    for module in theirs.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1), module.running_var.uniform_(0.5, 1.5), module.bias.normal_(0, 0.1)
    ours = instantiate(get_config("common/models/backbones.py").resnet50_dc5.backbone).eval()
    state = {_detectron2_name(name): x for name, x in theirs.state_dict().items() if not name.startswith("fc.")}
    ours.load_state_dict({name: x for name, x in state.items() if "num_batches" not in name})
    x = torch.randn(1, 3, 64, 96)
    expected = theirs.layer4(
        theirs.layer3(theirs.layer2(theirs.layer1(theirs.maxpool(theirs.relu(theirs.bn1(theirs.conv1(x)))))))
    )
    torch.testing.assert_close(ours(x)["res5"], expected, atol=1e-4, rtol=1e-4)


def test_the_shipped_backbones_have_the_shapes_they_state():
    for name, entry in get_config("common/models/backbones.py").items():
        if entry.shapes is None:  # timm's know theirs: tests/unit/test_timm_backbone.py
            continue
        maps = _build(entry.backbone)(torch.empty(1, 3, 64, 128, device="meta"))
        stated = {key: (1, spec.channels, 64 // spec.stride, 128 // spec.stride) for key, spec in entry.shapes.items()}
        assert {key: tuple(x.shape) for key, x in maps.items()} == stated, name
