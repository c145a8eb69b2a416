"""Whole runs of original config files through the ordinary entry point, and beside the original itself.

With a checkout of the original at $DETREX_UPSTREAM, its own config files are run as well.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from coco_of_noise import register
from detectron2.config import instantiate
from detectron2.structures import Boxes, Instances

from detrex.checkpoint.dialects import detect_dialect, to_ours
from detrex.cli.migrate import main as migrate
from detrex.cli.train import build_parser
from detrex.compat.migration import edits
from detrex.config import load_config
from detrex.config.instantiation import meta_device
from detrex.engine.train import main
from detrex.solver.param_groups import build_optimizer

HERE = Path(__file__).parent
UPSTREAM = "DETREX_UPSTREAM"
PROJECTS = Path(os.environ.get(UPSTREAM, "/nowhere")) / "projects"
THEIRS = sorted(path for name in ("deformable", "h_deformable") for path in PROJECTS.glob(f"{name}_detr/configs/*.py"))
with_original = pytest.mark.skipif(not THEIRS, reason=f"${UPSTREAM} names no checkout of the original detrex")
theirs = pytest.mark.parametrize("path", THEIRS, ids=lambda path: path.stem)

STACK = {"num_layers": 1, "feedforward_dim": 32, "attn_dropout": 0.0, "ffn_dropout": 0.0}
SWIN = {"embed_dim": 12, "depths": "[1,1,1,1]", "num_heads": "[1,1,2,4]", "drop_path_rate": 0.0}


def tiny(path: Path) -> list[str]:
    """Overrides by the keys of the original that make its model small."""
    changes = {f"transformer.{part}.{key}": value for part in ("encoder", "decoder") for key, value in STACK.items()}
    changes |= {"transformer.decoder.num_layers": 2, "select_box_nums_for_evaluation": 20}
    if "hybrid" in path.stem or "h_deformable" in path.stem:
        changes |= {"num_queries_one2one": 10, "num_queries_one2many": 20, "k_one2many": 2}
        changes |= {"transformer.two_stage_num_proposals": 30}
    else:
        changes["num_queries"] = 10
    if "swin" in path.stem:
        changes |= {f"backbone.{key}": value for key, value in SWIN.items()}
        changes |= {f"neck.input_shapes.p{i}.channels": 12 * 2**i for i in (1, 2, 3)}
    return [f"model.{key}={value}" for key, value in changes.items()]


def small_images() -> list[str]:
    train, test = "dataloader.train", "dataloader.test"
    return [
        f"{train}.mapper.augmentation_with_crop=null",
        f"{train}.mapper.augmentation.1.short_edge_length=[96]",
        f"{test}.mapper.augmentation.0.short_edge_length=96",
        f"{train}.total_batch_size=2",
        f"{train}.num_workers=0",
        f"{test}.num_workers=0",
    ]


def run(path: Path, folder: Path, *options: str) -> dict:
    settings = [*tiny(path), *small_images(), "train.max_iter=1", f"train.output_dir={folder}"]
    return main(build_parser().parse_args(["--config-file", str(path), *options, *settings]))


def check_run(path: Path, folder: Path, monkeypatch) -> None:
    register(folder, monkeypatch)
    trained = run(path, folder / "run", "train.init_checkpoint=''")
    assert 0 <= trained["bbox"]["AP"] <= 100
    log = (folder / "run/log.txt").read_text()
    assert all(f"{path}: {note}" in log for note in load_config(path, tiny(path)).rewritten.notes)
    again = run(path, folder / "again", "--eval-only", f"train.init_checkpoint={folder}/run/model_final.pth")
    assert json.dumps(again) == json.dumps(trained)  # as text, because an undefined AP is NaN


@pytest.mark.parametrize("name", ["two_stage", "hybrid_one_stage"])
def test_an_original_config_trains_and_evaluates(name, tmp_path, monkeypatch):
    check_run(HERE / f"configs/{name}.py", tmp_path, monkeypatch)


@with_original
@theirs
def test_the_originals_own_config_trains_and_evaluates(path, tmp_path, monkeypatch):
    with meta_device():
        instantiate(load_config(path).model)
    check_run(path, tmp_path, monkeypatch)


@with_original
@theirs
def test_the_originals_own_config_migrates(path, tmp_path):
    assert migrate([str(path), "-o", str(tmp_path / "new.py")]) == 0
    assert list(edits(load_config(tmp_path / "new.py"), load_config(path), set())) == []


@with_original
@pytest.mark.parametrize("path", [p for p in THEIRS if p.stem != "h_deformable_detr_r50_50ep"], ids=lambda p: p.stem)
def test_the_model_is_the_one_that_the_original_builds(path, tmp_path):
    """Names, shapes, rates and decay of parameters, losses and detections. The config left out fails there."""
    generator = torch.Generator().manual_seed(0)
    boxes, classes = torch.tensor([[10.0, 10, 50, 60], [20, 5, 90, 40]]), torch.tensor([1, 5])
    images = [torch.randint(0, 256, (3, 96, 128), generator=generator, dtype=torch.uint8) for _ in range(2)]
    overrides = [*tiny(path), "model.num_classes=7"]
    job = {"checkout": os.environ[UPSTREAM], "config": str(path), "inputs": [(x, boxes, classes) for x in images]}
    job["overrides"] = [*overrides, "model.criterion.num_classes=7", "model.device=cpu"]
    torch.save(job, tmp_path / "job.pt")
    command = [sys.executable, "-W", "ignore", HERE / "original_model.py", tmp_path / "job.pt", tmp_path / "out.pt"]
    subprocess.run(command, check=True, capture_output=True, text=True)
    original = torch.load(tmp_path / "out.pt", weights_only=False)

    cfg = load_config(path, overrides)
    model = instantiate(cfg.model)
    state = original["state"]
    names = to_ours(detect_dialect(state), state)
    model.load_state_dict(names.state)  # names and shapes, all of them
    optimizer = build_optimizer(cfg, model)
    groups = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    ours = {name: groups[id(p)] for name, p in model.named_parameters() if id(p) in groups}
    source = {their: name for name, their_names in names.source.items() for their in their_names}
    rates = {name.removeprefix("transformer.decoder."): rate for name, rate in original["rates"].items()}
    expected = {source.get(name) or source[f"transformer.decoder.{name}"]: rate for name, rate in rates.items()}
    assert {name: (group["lr"], group["weight_decay"]) for name, group in ours.items()} == expected

    inputs = []
    for image in images:
        instances = Instances((96, 128), gt_boxes=Boxes(boxes), gt_classes=classes)
        inputs.append({"image": image, "instances": instances})
    losses = {name: float(loss.detach()) for name, loss in model.train()(inputs).items()}
    assert losses == pytest.approx(original["losses"], rel=1e-4)
    with torch.no_grad():
        found = [model.eval()([x])[0]["instances"] for x in inputs]
    for ours, (their_boxes, scores, labels) in zip(found, original["detections"], strict=True):
        torch.testing.assert_close(ours.scores, scores, rtol=1e-4, atol=1e-5)
        assert torch.equal(ours.pred_classes, labels)
        torch.testing.assert_close(ours.pred_boxes.tensor, their_boxes, rtol=1e-4, atol=1e-2)
