"""Every config file loads, and builds on the meta device."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from detectron2.config import instantiate

from detrex.config import load_config

ROOT = Path(__file__).parents[2]
CONFIGS = sorted(p for p in ROOT.glob("projects/*/configs/*.py"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_builds_on_the_meta_device(path):
    cfg = load_config(path)
    assert {"model", "dataloader", "optimizer", "lr_multiplier", "train"} <= set(cfg)
    with torch.device("meta"):
        model = instantiate(cfg.model)
    assert {p.device.type for p in model.parameters()} == {"meta"}
    assert model.transformer.decoder.heads[0].class_embed.out_features == cfg.model.num_classes
    assert model.criterion.num_classes == cfg.model.num_classes


@pytest.mark.parametrize(
    ("name", "millions"),
    [("deformable_detr_r50_50ep", 40.1), ("deformable_detr_r50_with_box_refinement_50ep", 40.8),
     ("deformable_detr_r50_two_stage_50ep", 41.2)],
)  # fmt: skip
def test_parameters_are_those_of_the_paper(name, millions):
    cfg = load_config(ROOT / f"projects/deformable_detr/configs/{name}.py")
    with torch.device("meta"):
        model = instantiate(cfg.model)
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, abs=0.1)


def test_one_number_sizes_the_model():
    cfg = load_config(ROOT / "projects/deformable_detr/configs/deformable_detr_r50_two_stage_50ep.py")
    cfg.model.num_classes = 7
    cfg.model.transformer.embed_dim = 128
    cfg.model.transformer.num_levels = 5
    cfg.model.transformer.queries.groups.one2one = 11
    with torch.device("meta"):
        model = instantiate(cfg.model)
    assert model.transformer.queries.proposals.head.class_embed.out_features == 7
    assert model.transformer.decoder.heads[-1].class_embed.weight.shape == (7, 128)
    assert model.transformer.level_embeds.shape == (5, 128)
    assert len(model.neck.convs) + len(model.neck.extra_convs) == 5
    assert model.transformer.queries.groups.capacity == 11


@pytest.mark.parametrize("variant", ["", "_with_box_refinement", "_two_stage"])
def test_the_official_recipe_differs_in_the_documented_values(variant):
    folder = ROOT / "projects/deformable_detr/configs"
    ours = load_config(folder / f"deformable_detr_r50{variant}_50ep.py")
    official = load_config(folder / f"deformable_detr_r50{variant}_50ep_official.py")
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
