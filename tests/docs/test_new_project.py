"""docs/new_project.md: the example works, is short, and is what the page shows."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from tiny import EMBED_DIM, NUM_LEVELS, image_input, tiny_detector

from detrex.cli.train import build_parser
from detrex.config import ConfigError, load_config
from detrex.data.datasets.shapes import ShapesParameters, make_demo_data
from detrex.engine import main
from detrex.modeling import IterativeRefinement, QueryGroups
from detrex.structures import Queries
from projects.dab_deformable_detr.modeling import AnchorDecoder, AnchorQueries

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/new_project.md"
PROJECT = ROOT / "projects/dab_deformable_detr"
CONFIG = PROJECT / "configs/dab_custom_small.py"


def dab_detector():
    detector = tiny_detector("two_stage")
    sizes = {
        "embed_dim": EMBED_DIM,
        "num_heads": 4,
        "feedforward_dim": 48,
        "num_feature_levels": NUM_LEVELS,
        "num_points": 2,
    }
    transformer = detector.transformer
    transformer.queries = AnchorQueries(groups=QueryGroups(one2one=20), embed_dim=EMBED_DIM)
    transformer.decoder = AnchorDecoder(
        num_layers=3, num_classes=3, refinement=IterativeRefinement(), point_reference=False, dropout=0.0, **sizes
    )
    return detector


def test_the_page_shows_the_files_whole():
    shown = dict(
        re.findall(r"^`(projects/\S+\.py)`:\n\n```python\n(.*?)```$", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    )
    files = {str(path.relative_to(ROOT)): path.read_text() for path in PROJECT.rglob("*.py") if path.stem != "__init__"}
    assert shown == files


def test_it_is_less_than_100_lines():
    lines = sum(len(path.read_text().splitlines()) for path in PROJECT.rglob("*.py") if path.stem != "__init__")
    assert lines < 100
    assert f"It is {lines} lines" in PAGE.read_text()


def test_it_trains_and_evaluates_through_the_command_line(tmp_path):
    make_demo_data(tmp_path / "shapes", ShapesParameters(num_train=8, num_val=2, image_size=64))
    options = ["--config-file", str(CONFIG)]
    overrides = [
        f"dataloader.data.root={tmp_path}/shapes",
        "dataloader.train.num_workers=0",
        "dataloader.test.num_workers=0",
        "train.device=cpu",
        "train.max_iter=2",
        "train.warmup=0",
        "train.log_period=1",
    ]
    trained = main(build_parser().parse_args([*options, *overrides, f"train.output_dir={tmp_path}/run"]))
    overrides += [f"train.init_checkpoint={tmp_path}/run/model_final.pth", f"train.output_dir={tmp_path}/eval"]
    again = main(build_parser().parse_args([*options, "--eval-only", *overrides]))
    assert json.dumps(again) == json.dumps(trained)
    rows = [json.loads(line) for line in (tmp_path / "run/metrics.json").read_text().splitlines()]
    assert all(row["total_loss"] > 0 for row in rows if "total_loss" in row)
    assert "loss_bbox_0" in rows[0]


def test_every_new_parameter_learns():
    detector = dab_detector().train()
    sum(detector([image_input(96, 128, boxes=4), image_input(64, 96, boxes=2, seed=1)]).values()).backward()
    for part in (detector.transformer.queries, detector.transformer.decoder.position):
        for name, parameter in part.named_parameters():
            assert parameter.grad.abs().sum() > 0, name
    assert any(p.grad.abs().sum() > 0 for p in detector.transformer.decoder.modulation.parameters())


def test_positions_follow_the_anchors():
    detector = dab_detector()
    decoder, queries = detector.transformer.decoder, detector.transformer.queries
    boxes = queries.anchors.weight.sigmoid()[None]
    content = torch.randn(1, 20, EMBED_DIM)
    start = Queries(content, torch.zeros_like(content), boxes, (20,))
    first, moved = (decoder.position_queries(start, content, anchor, 0).pos_BQC for anchor in (boxes, boxes * 0.5))
    assert not torch.allclose(first, moved)
    later = decoder.position_queries(start, content, boxes, 1).pos_BQC
    torch.testing.assert_close(later, first * decoder.modulation(content))


def test_an_images_detections_do_not_depend_on_its_neighbours():
    detector = dab_detector().eval()
    small, large = image_input(64, 96), image_input(96, 128, seed=1)
    with torch.no_grad():
        alone, beside = detector([small])[0]["instances"], detector([small, large])[0]["instances"]
    torch.testing.assert_close(alone.pred_boxes.tensor, beside.pred_boxes.tensor, rtol=1e-4, atol=1e-3)


def test_its_parameters_are_checked_as_those_of_the_base_class():
    with pytest.raises(ConfigError, match=r"did you mean .*decoder\.num_layers"):
        load_config(CONFIG, ["model.transformer.decoder.num_layer=2"])
