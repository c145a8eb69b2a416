"""Counting parameters and multiply-adds."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny import EMBED_DIM, NUM_LEVELS, image_input, tiny_detector

from detrex.analysis import complexity as analysis
from detrex.analysis.complexity import PUBLISHED, coco_test_sizes, count_macs, mean_macs
from detrex.cli import analyze as analysis_report
from detrex.config import get_config, load_config
from detrex.config.instantiation import build_on_meta

CONFIGS = Path(__file__).parents[2] / "projects/deformable_detr/configs"
# Measured on the official Deformable DETR code (91 classes), on an image of 800x1066 by the same convention.
OFFICIAL = {
    "deformable_detr_r50_single_scale_50ep": (34066593, 76393446400),
    "deformable_detr_r50_single_scale_dc5_50ep": (34066593, 125007846400),
    "deformable_detr_r50_50ep": (40069665, 166186765312),
    "deformable_detr_r50_with_box_refinement_50ep": (40849660, 166424538112),
    "deformable_detr_r50_two_stage_50ep": (41181529, 170440185600),
}
# With box refinement it computes its 6 box heads twice for 300 queries.
TWICE = 6 * 300 * (2 * 256**2 + 256 * 4)


@pytest.mark.parametrize("name", PUBLISHED)
def test_costs_are_those_of_the_official_code(name):
    model = build_on_meta(load_config(CONFIGS / f"{name}.py", ["model.num_classes=91"]))
    parameters, macs = OFFICIAL[name]
    assert sum(p.numel() for p in model.parameters()) == parameters
    twice = 0 if model.transformer.decoder.refinement.shared_heads else TWICE
    assert sum(count_macs(model, 800, 1066).values()) + twice == macs


@torch.no_grad()
def test_a_resnet_costs_what_torchvision_says():
    """4.089 G for ResNet-50 at 224x224, of which its classifier, which a detector lacks, takes 2048 * 1000."""
    model = build_on_meta(load_config(CONFIGS / "deformable_detr_r50_50ep.py"))
    assert count_macs(model, 224, 224)["backbone"] / 1e9 == pytest.approx(4.089 - 0.002, abs=0.001)


def test_each_part_by_hand():
    detector, (height, width), classes = tiny_detector("plain", queries=20).eval(), (64, 96), 3
    macs = count_macs(detector, height, width)
    tokens = 8 * 12 + 4 * 6 + 2 * 3
    heads, points, hidden, C = 4, 2, 48, EMBED_DIM
    samples = heads * NUM_LEVELS * points

    def deformable(queries):
        projections = tokens * C * C + queries * C * (2 * samples + samples) + queries * C * C
        return projections + 5 * queries * C * NUM_LEVELS * points

    assert macs["encoder"] == 2 * (deformable(tokens) + 2 * tokens * C * hidden)
    self_attention = 20 * C * (3 * C + C) + 2 * 20 * 20 * C
    head = 20 * (C * classes + 2 * C * C + 4 * C)
    assert macs["decoder"] == 3 * (self_attention + deformable(20) + 2 * 20 * C * hidden + head)
    assert macs["queries"] == 20 * C * 2
    assert macs["backbone"] == 8 * 12 * 8 * 3 * 49 + 4 * 6 * 16 * 8 * 9
    assert macs["neck"] == C * (8 * 12 * 8 + 4 * 6 * 16 + 2 * 3 * 16 * 9)


def test_counting_leaves_the_model_as_it_was():
    detector = tiny_detector("two_stage").eval()
    before = detector([image_input(64, 64)])[0]["instances"]
    first = count_macs(detector, 64, 64)
    assert first == count_macs(detector, 64, 64)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in detector.modules())
    assert torch.equal(detector([image_input(64, 64)])[0]["instances"].scores, before.scores)


def test_sizes_are_those_of_testing():
    sizes = coco_test_sizes()
    assert sizes.total() == 100
    assert all(min(size) <= 800 and max(size) <= 1333 for size in sizes)
    assert sizes[(800, 1199)] > 1  # 640x427, COCO's commonest


def test_means_are_weighted():
    detector = tiny_detector("plain").eval()
    small, large = count_macs(detector, 64, 64)["encoder"], count_macs(detector, 96, 96)["encoder"]
    mean = mean_macs(detector, {(64, 64): 3, (96, 96): 1})["encoder"]
    assert mean == pytest.approx((3 * small + large) / 4)


def test_a_hybrid_model_costs_what_evaluation_runs():
    plain, hybrid = (tiny_detector("two_stage", queries=5, one2many=n).eval() for n in (0, 30))
    assert count_macs(plain, 64, 64) == count_macs(hybrid, 64, 64)


def test_speed_is_the_median_over_the_batches(monkeypatch):
    ticks = iter([0, 9, 10, 11, 20, 23, 30, 32])  # one warm-up of 9 s, then 1, 3 and 2 s
    monkeypatch.setattr(analysis.time, "perf_counter", lambda: next(ticks))
    settings = {"device": torch.device("cpu"), "batch_size": 2, "repeats": 3, "warmup": 1}
    seconds = analysis.measure_speed(tiny_detector("plain").eval(), [(64, 64)], **settings)
    assert seconds == 1.0


def test_the_report_of_every_task(capsys):
    config = str(CONFIGS / "demo_shapes.py")
    tasks = ["--tasks", "parameter", "flop", "structure"]
    options = ["--image-size", "64", "64"]
    assert analysis_report.main(["--config-file", config, *tasks, *options, "model.num_classes=7"]) == 0
    out = capsys.readouterr().out
    for expected in (
        "| decoder ",
        "FLOPs (G), one image of 64x64",
        "one multiply-add is one",
        "ConvStages",
    ):
        assert expected in out
    assert "out_features=7" in out


def test_the_published_row_stands_beside_ours(capsys):
    config = str(CONFIGS / "deformable_detr_r50_50ep_official.py")
    arguments = ["--config-file", config, "--compare-published", "--image-size", "96", "96"]
    assert analysis_report.main(arguments) == 0
    published, ours = capsys.readouterr().out.strip().splitlines()[-2:]
    assert [cell.strip() for cell in published.split("|")[1:-1]] == ["published", "40", "173"]
    assert ours.split("|")[2].strip() == "40.07"


def test_a_model_without_a_published_row_is_an_error(capsys):
    arguments = ["--config-file", str(CONFIGS / "demo_shapes.py"), "--compare-published", "--image-size", "64", "64"]
    assert analysis_report.main(arguments) == 2
    assert "demo_shapes.py has no published cost; there is one for deformable_detr_r50" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["swin_tiny", "resnet101_dc5"])
def test_published_backbones_can_be_counted(name):
    entry = get_config("common/models/backbones.py")[name]
    cfg = load_config(CONFIGS / "deformable_detr_r50_50ep.py")
    cfg.model.backbone, cfg.model.neck.input_shapes = entry.backbone, entry.shapes
    cfg.model.neck.in_features = list(entry.shapes)
    assert count_macs(build_on_meta(cfg), 224, 224)["backbone"] > 4e9
