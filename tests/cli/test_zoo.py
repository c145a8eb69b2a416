"""The zoo pages: their rows, their commands, and their evaluation."""

from __future__ import annotations

import copy
import dataclasses
import functools
import hashlib
import json
import re
import shlex
from pathlib import Path

import pytest
import torch
from detectron2.config import instantiate
from detectron2.data import DatasetCatalog, MetadataCatalog
from omegaconf import DictConfig, OmegaConf

from detrex.checkpoint import Checkpointer, CheckpointError
from detrex.checkpoint.conversion import convert
from detrex.checkpoint.writing import write_weights
from detrex.cli import zoo
from detrex.cli.train import build_parser
from detrex.config import apply_overrides, load_config
from detrex.config.instantiation import meta_device
from detrex.data.datasets.shapes import ShapesParameters, make_demo_data
from detrex.engine.train import main
from detrex.solver.param_groups import build_optimizer

ROOT = Path(__file__).parents[2]
ENTRIES = zoo.select_entries()


@functools.cache
def _load(config_file: str) -> DictConfig:
    return load_config(ROOT / config_file)


def test_every_published_row_is_there():
    by_source = {source: sum(e.source == source for e in ENTRIES) for source in {e.source for e in ENTRIES}}
    assert by_source == {
        "Authors": 5 + 27,
        "Hugging Face": 5,
        "detrex": 3 + 1,
        "detrex, the authors' weights": 3 + 8,
        "MMDetection 3.x": 3,
        "MMDetection 2.x": 3,
    }
    assert len({(e.url, e.detections) for e in ENTRIES}) == len(ENTRIES)


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda e: f"{e.source}-{e.config}-{e.box_ap}")
def test_a_row_is_what_its_command_evaluates(entry):
    words = shlex.split(entry.command)
    assert words[:2] == ["detrex", "evaluate"]
    args = build_parser("evaluate").parse_args(words[2:])
    assert args.weights == entry.file
    cfg = apply_overrides(copy.deepcopy(_load(args.config_file)), args.opts)
    assert cfg.model.num_select == entry.detections
    assert cfg.model.transformer.queries.groups.one2one == entry.queries
    assert cfg.train.max_iter == f"{entry.epochs}ep"
    name = {"R50": "_r50_", "Swin-T": "_swin_tiny_", "Swin-L": "_swin_large_"}[entry.backbone]
    assert name in entry.config
    # detrex computes with another epsilon than everyone else
    eps = cfg.model.transformer.decoder.inverse_sigmoid_eps
    assert eps == (1e-3 if entry.source.startswith("detrex") else 1e-5)


@pytest.mark.parametrize("project", zoo.PROJECTS)
def test_the_readme_holds_the_rows(project):
    path = ROOT / "projects" / project / "README.md"
    text = path.read_text()
    assert zoo.update_readme(project, text) == text, "run detrex zoo readme"
    assert text.count("| [config](") == len(zoo.read_zoo(project)[1])


@pytest.mark.parametrize("project", zoo.PROJECTS)
def test_the_readme_names_files_that_exist_and_keys_that_are_read(project):
    text = (ROOT / "projects" / project / "README.md").read_text()
    for link in re.findall(r"\]\((?!http)([^)#]+)\)", text):
        assert (ROOT / "projects" / project / link).exists(), link
    base = {"deformable_detr": "deformable_detr_r50_50ep", "h_deformable_detr": "h_deformable_detr_r50_50ep"}[project]
    prose = text.split(zoo.END)[1]
    keys = set(re.findall(r"`((?:model|optimizer|dataloader|train)\.[\w.]+)", prose))
    assert len(keys) > 5
    cfg = _load(f"projects/{project}/configs/{base}.py")
    for key in keys - {"model.backbone.use_checkpoint"}:  # of Swin
        apply_overrides(copy.deepcopy(cfg), [f"{key}={_some_value(cfg, key)}"])


def _some_value(cfg, key):
    value = OmegaConf.select(cfg, key)
    return "{}" if isinstance(value, DictConfig) else "null" if value is None else value


def test_the_other_recipe_of_the_readme_is_detrexs():
    text = (ROOT / "projects/h_deformable_detr/README.md").read_text()
    block = text[text.index("optimizer.lr=1e-4") :].split("```")[0].replace("\\\n", " ")
    cfg = load_config(
        ROOT / "projects/h_deformable_detr/configs/h_deformable_detr_r50_two_stage_12ep.py", shlex.split(block)
    )
    other = load_config(ROOT / "projects/deformable_detr/configs/deformable_detr_r50_two_stage_50ep.py")
    with meta_device():
        groups = [
            {(g["lr"], g["weight_decay"]) for g in build_optimizer(x, instantiate(x.model)).param_groups}
            for x in (cfg, other)
        ]
    assert groups[0] == groups[1]
    assert cfg.model.criterion.weights.class_ == 1.0


def test_evaluation_compares_and_goes_on_after_an_error(monkeypatch, tmp_path):
    first, second, third = (e for e in ENTRIES if e.source == "detrex" and e.project == "deformable_detr")
    local = tmp_path / first.url.rsplit("/", 1)[1]
    local.write_bytes(b"weights")
    seen = []

    def resolve(path):
        if path == second.url:
            raise CheckpointError("no network")
        return str(local)

    def train(args):
        seen.append((args.config_file, args.eval_only, args.opts))
        return {"bbox": {"AP": 44.86}}

    monkeypatch.setattr(zoo, "resolve_checkpoint", resolve)
    monkeypatch.setattr(zoo, "train", train)
    outcomes = list(
        zoo.evaluate_entries(
            [first, second, third],
            record=tmp_path / "sha256.json",
            checkpoints=tmp_path,
            overrides=["dataloader.test.num_workers=0"],
        )
    )
    assert [outcome.agrees for outcome in outcomes] == [True, False, False]  # 44.9; no file; 48.2
    assert outcomes[0].sha256 == hashlib.sha256(b"weights").hexdigest()
    assert "no network" in str(outcomes[1])
    assert "44.86, published 48.2: DIFFERS" in str(outcomes[2])
    config, eval_only, options = seen[0]
    assert (config, eval_only) == (first.config_file, True)
    assert f"train.init_checkpoint={local}" in options
    assert options[-1] == "dataloader.test.num_workers=0"


def test_files_of_google_drive_go_by_the_configs_name(tmp_path):
    entry = next(e for e in ENTRIES if "drive.google.com" in e.url)
    assert zoo._local(entry, tmp_path) is None
    (tmp_path / f"{entry.config}.pth").touch()
    assert zoo._local(entry, tmp_path) == str(tmp_path / f"{entry.config}.pth")


def test_a_readme_without_a_place_for_tables_is_an_error():
    with pytest.raises(ValueError, match="README of deformable_detr has no lines"):
        zoo.update_readme("deformable_detr", "# Deformable DETR")


def test_hashes_are_recorded_first_and_compared_later(tmp_path):
    record, url = tmp_path / "zoo" / "sha256.json", "https://x.org/a.pth"
    assert not zoo.check_digest(url, "ab12", record)
    assert not zoo.check_digest("https://x.org/b.pth", "ffff", record)
    assert json.loads(record.read_text()) == {url: "ab12", "https://x.org/b.pth": "ffff"}
    assert zoo.check_digest(url, "ab12", record)
    with pytest.raises(CheckpointError, match=r"a\.pth: its SHA-256 is cd34, but was ab12 when it was first fetched"):
        zoo.check_digest(url, "cd34", record)


def test_openmmlab_ends_names_with_the_hash(tmp_path):
    url = zoo.select_entries("MMDetection 3.x")[0].url
    assert url.endswith("-6bc7d21b.pth")
    with pytest.raises(CheckpointError, match="should begin with 6bc7d21b, as its name says, but is 6bc7"):
        zoo.check_digest(url, "6bc7d2110000", tmp_path / "sha256.json")
    assert not (tmp_path / "sha256.json").exists()
    assert not zoo.check_digest(url, "6bc7d21b0000", tmp_path / "sha256.json")


@pytest.fixture
def small_zoo(tmp_path, monkeypatch):
    """A file of the demo's model with random weights, its row, and generated images."""
    monkeypatch.chdir(tmp_path)  # results go to ./output
    make_demo_data(tmp_path / "data", ShapesParameters(num_train=2, num_val=4, image_size=96))
    torch.manual_seed(0)
    model = instantiate(_load("projects/deformable_detr/configs/demo_shapes.py").model)
    Checkpointer(model, str(tmp_path)).save("ours")
    convert(str(tmp_path / "ours.pth"), str(tmp_path / "zoo.safetensors"))
    entry = zoo.Entry(
        source="here",
        project="deformable_detr",
        config="demo_shapes",
        name="demo",
        backbone="-",
        queries=30,
        epochs=8,
        box_ap=50.0,
        detections=100,
        url=(tmp_path / "zoo.safetensors").as_uri(),
    )
    yield entry, ["train.device=cpu", f"dataloader.data.root={tmp_path / 'data'}", "dataloader.test.num_workers=0"]
    for name in ("demo_shapes_train", "demo_shapes_val"):
        if name in DatasetCatalog:
            DatasetCatalog.remove(name)
            MetadataCatalog.remove(name)


def detections(folder: Path) -> list:
    return json.loads((folder / "coco_instances_results.json").read_text())


def test_a_row_is_fetched_hashed_converted_evaluated_and_compared(small_zoo, tmp_path):
    """The whole way without a network; the boxes are those of our own file."""
    entry, overrides = small_zoo
    record = tmp_path / "sha256.json"
    (outcome,) = zoo.evaluate_entries([entry], record=record, overrides=overrides)
    assert not outcome.error
    assert 0 <= outcome.box_ap < 50
    assert not outcome.agrees
    assert json.loads(record.read_text()) == {entry.url: zoo.sha256([tmp_path / "zoo.safetensors"])}
    assert "recorded" in str(outcome)

    found = detections(tmp_path / "output/zoo/deformable_detr/demo_shapes")
    words = ["--config-file", entry.config_file, "--eval-only", f"train.init_checkpoint={tmp_path / 'ours.pth'}"]
    results = main(build_parser().parse_args([*words, "train.output_dir=direct", *overrides]))
    assert len(found) > 100
    assert found == detections(tmp_path / "direct")
    assert outcome.box_ap == results["bbox"]["AP"]

    right = dataclasses.replace(entry, box_ap=results["bbox"]["AP"] + 0.04)
    (outcome,) = zoo.evaluate_entries([right], record=record, overrides=overrides)
    assert outcome.agrees
    assert "agrees [SHA-256" in str(outcome)
    assert "as before" in str(outcome)

    model = instantiate(_load(entry.config_file).model)
    write_weights(tmp_path / "zoo.safetensors", model.state_dict())
    (outcome,) = zoo.evaluate_entries([entry], record=record, overrides=overrides)
    assert "when it was first fetched" in outcome.error
    assert not outcome.agrees
