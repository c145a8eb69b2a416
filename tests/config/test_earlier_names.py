"""Files of an earlier version load: their names of classes and keys become the current ones.

``data/earlier`` was written by the code of commit 46166d4: the ``config.yaml`` and best checkpoint of a tiny detector
(two steps on eight generated images of 64 pixels), its detections on four others, and the ``config.yaml`` and
checkpoint metadata of ``h_deformable_detr_r50_two_stage_12ep.py`` with ``train.accelerate.training=[channels_last]``.
"""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from detrex import Detector
from detrex.cli.train import build_parser
from detrex.config import ConfigKeyError, load_config, validate_config
from detrex.config.instantiation import build_on_meta
from detrex.config.renamed import ARGUMENTS, TARGETS, TRAIN_KEYS, current_target, rename_keys
from detrex.config.serialization import from_plain
from detrex.data.datasets.shapes import ShapesParameters, make_demo_data
from detrex.engine.train import main

ROOT = Path(__file__).parents[2]
EARLIER = Path(__file__).parent / "data" / "earlier"
HYBRID = "projects/h_deformable_detr/configs/h_deformable_detr_r50_two_stage_12ep.py"


@pytest.fixture(scope="module")
def shapes(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("shapes")
    make_demo_data(folder, ShapesParameters(num_train=8, num_val=4, image_size=64))
    return folder


def test_a_run_of_an_earlier_version_evaluates_to_the_same_detections(shapes, tmp_path):
    overrides = {
        "train.init_checkpoint": EARLIER / "tiny.pth",
        "dataloader.data.root": shapes,
        "train.output_dir": tmp_path,
    }
    arguments = ["--eval-only", "--config-file", str(EARLIER / "tiny.yaml")]
    main(build_parser().parse_args([*arguments, *(f"{key}={value}" for key, value in overrides.items())]))
    found = json.loads((tmp_path / "coco_instances_results.json").read_text())
    expected = json.loads((EARLIER / "tiny_results.json").read_text())
    assert len(found) == len(expected) == 20
    for ours, theirs in zip(found, expected, strict=True):
        assert (ours["image_id"], ours["category_id"]) == (theirs["image_id"], theirs["category_id"])
        assert ours["score"] == pytest.approx(theirs["score"], abs=1e-5)
        assert ours["bbox"] == pytest.approx(theirs["bbox"], abs=1e-2)


def test_a_checkpoint_of_an_earlier_version_is_a_detector(shapes):
    detector = Detector.from_checkpoint(EARLIER / "tiny.pth", device="cpu")
    assert detector.class_names == ("circle", "square", "triangle", "star", "cross")
    image = sorted((shapes / "val").iterdir())[0]
    expected = [row["score"] for row in json.loads((EARLIER / "tiny_results.json").read_text())[:5]]
    assert detector.predict(image, threshold=0.0).scores.tolist() == pytest.approx(expected, abs=1e-5)


def test_a_saved_config_of_an_earlier_version_builds_the_same_model():
    earlier, now = load_config(EARLIER / "hybrid.yaml"), load_config(ROOT / HYBRID)
    validate_config(earlier)
    assert str(build_on_meta(earlier)) == str(build_on_meta(now))
    assert earlier.train.optimizations.training == ["channels_last"]
    earlier.model.transformer.num_feature_levels = 5  # what referred to it still does
    model = build_on_meta(earlier)
    assert (len(model.neck.convs) + len(model.neck.extra_convs), len(model.transformer.level_embeds)) == (5, 5)


def test_a_config_in_a_checkpoint_of_an_earlier_version_builds_the_same_model():
    cfg = from_plain(json.loads((EARLIER / "hybrid_metadata.json").read_text())["config"])
    assert str(build_on_meta(cfg)) == str(build_on_meta(load_config(ROOT / HYBRID)))
    assert cfg.train.optimizations.evaluation == "all"


def test_a_config_file_with_keys_of_an_earlier_version_loads_with_a_warning(tmp_path, caplog):
    (tmp_path / "mine.py").write_text(
        f"from detrex.config import get_config\nbase = get_config({HYBRID!r})\nmodel, train = base.model, base.train\n"
        "model.transformer.encoder.hidden_dim = 512\ntrain.accelerate = {'training': 'none'}\ndel base\n"
    )
    cfg = load_config(tmp_path / "mine.py")
    validate_config(cfg)
    assert cfg.model.transformer.encoder.feedforward_dim == cfg.model.transformer.decoder.feedforward_dim == 512
    assert cfg.train.optimizations == {"training": "none"}
    assert "model.transformer.encoder.hidden_dim -> feedforward_dim" in caplog.text


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("model.transformer.encoder.hidden_dim", "model.transformer.encoder.feedforward_dim"),
        ("model.transformer.num_levels", "model.transformer.num_feature_levels"),
        ("train.accelerate.training", "train.optimizations.training"),
    ],
)
def test_an_override_by_an_earlier_key_names_the_current_one(old, new):
    with pytest.raises(ConfigKeyError, match=rf"unknown key '{old}': did you mean {new}\?"):
        load_config(ROOT / HYBRID, [f"{old}=1"])


def test_only_what_was_renamed_is_renamed():
    cfg = OmegaConf.create(
        {
            "mlp": {"_target_": "detrex.layers.MLP", "in_dim": 1, "hidden_dim": 2, "out_dim": 3, "num_layers": 2},
            "attention": {"_target_": "detrex.layers.MultiScaleDeformableAttention", "num_levels": "${mlp.hidden_dim}"},
            "mine": {"hidden_dim": 3, "copy": "${.hidden_dim}", "target": "detrex.engine.optim.LRFactors"},
        }
    )
    before = OmegaConf.to_container(cfg)
    assert rename_keys(cfg) == []
    assert OmegaConf.to_container(cfg) == before


def test_references_follow_the_keys_that_they_name():
    ffn = {"_target_": "detrex.layers.FFN", "embed_dim": 1, "hidden_dim": "${...other.hidden_dim}"}
    cfg = OmegaConf.create(
        {
            "other": {"hidden_dim": 1, "copy": "${list.0.ffn.hidden_dim}"},
            "list": [{"ffn": ffn, "text": "${.ffn.hidden_dim}/${..1}"}, 7],
            "train": {"accelerate": {"training": "all", "evaluation": "${.training}"}},
            "use": "${train.accelerate.evaluation}",
        }
    )
    cfg["list"][0].ffn.hidden_dim = "${other.hidden_dim}"
    assert rename_keys(cfg) == ["train.accelerate -> optimizations", "list.0.ffn.hidden_dim -> feedforward_dim"]
    assert OmegaConf.to_container(cfg)["other"]["copy"] == "${list.0.ffn.feedforward_dim}"
    assert OmegaConf.to_container(cfg.list)[0]["text"] == "${.ffn.feedforward_dim}/${..1}"
    assert OmegaConf.to_container(cfg.list)[0]["ffn"]["feedforward_dim"] == "${other.hidden_dim}"
    assert cfg.use == "all"


@pytest.mark.parametrize("name", sorted(TARGETS.values()))
def test_what_the_table_names_exists(name):
    try:
        importlib.import_module(name)
    except ModuleNotFoundError:
        module, _, attribute = name.rpartition(".")
        assert hasattr(importlib.import_module(module), attribute)


def test_the_tables_end_at_current_names():
    for table in (TARGETS, ARGUMENTS, TRAIN_KEYS):
        assert not set(table) & set(table.values())
    assert all(current_target(name) == name for name in TARGETS.values())
    assert current_target("detrex.engine.schedules.mine") == "detrex.engine.schedules.mine"
