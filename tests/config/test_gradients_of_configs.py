"""DistributedDataParallel runs without a search for unused parameters: each has its gradient, also without objects."""

from __future__ import annotations

from pathlib import Path

import pytest
from detectron2.config import instantiate
from omegaconf import OmegaConf
from tiny import image_input

from detrex.config import load_config

ROOT = Path(__file__).parents[2] / "projects"
# One config of each published family.
FAMILIES = [
    "deformable_detr/configs/deformable_detr_r50_single_scale_dc5_50ep.py",
    "deformable_detr/configs/deformable_detr_r50_50ep.py",
    "deformable_detr/configs/deformable_detr_r50_with_box_refinement_50ep.py",
    "deformable_detr/configs/deformable_detr_r50_two_stage_50ep.py",
    "deformable_detr/configs/deformable_detr_swin_tiny_50ep.py",
    "h_deformable_detr/configs/h_deformable_detr_r50_50ep.py",
    "h_deformable_detr/configs/h_deformable_detr_r50_two_stage_12ep.py",
    "h_deformable_detr/configs/h_deformable_detr_swin_tiny_two_stage_12ep.py",
    "h_deformable_detr/configs/deformable_detr_baseline_r50_two_stage_12ep_tricks.py",
]


@pytest.mark.parametrize("path", FAMILIES)
def test_every_parameter_has_its_gradient(path):
    cfg = load_config(str(ROOT / path))
    groups = cfg.model.transformer.queries.groups
    groups.one2one = 10  # the image is small
    if OmegaConf.select(groups, "one2many"):
        groups.one2many = 12
    model = instantiate(cfg.model).train()
    sum(model([image_input(64, 64, boxes=0)]).values()).backward()
    assert [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None] == []
    assert not cfg.train.ddp.find_unused_parameters
