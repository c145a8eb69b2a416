from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys

import numpy as np
import pytest
from coco_files import ROOT

from detrex.data import read_coco_json
from detrex.data.datasets import shapes as demo_shapes
from detrex.data.datasets.shapes import CLASS_NAMES, STAMP, ShapesParameters, draw_image, is_complete, make_demo_data

SMALL = ShapesParameters(num_train=12, num_val=4, image_size=64)


def snapshot(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_valid_coco_with_all_classes(tmp_path):
    make_demo_data(tmp_path / "d", ShapesParameters(num_train=40, num_val=2))
    data = read_coco_json(tmp_path / "d/annotations/train.json", tmp_path / "d/train")
    assert data.class_names == CLASS_NAMES
    assert min(data.count_per_class()) > 5
    assert not data.repairs
    assert len({len(r["annotations"]) for r in data.records}) > 2


def test_idempotent_and_seeded(tmp_path):
    folder = tmp_path / "d"
    assert make_demo_data(folder, SMALL)
    first = snapshot(folder)
    times = {p: p.stat().st_mtime_ns for p in folder.rglob("*")}
    assert not make_demo_data(folder, SMALL)
    assert {p: p.stat().st_mtime_ns for p in folder.rglob("*")} == times
    assert make_demo_data(tmp_path / "parallel", SMALL, num_workers=2)
    assert snapshot(tmp_path / "parallel") == first
    assert make_demo_data(folder, dataclasses.replace(SMALL, seed=1))
    assert snapshot(folder)["train/000000.jpg"] != first["train/000000.jpg"]
    assert make_demo_data(folder, SMALL)
    assert snapshot(folder) == first


def test_first_images_do_not_depend_on_the_number(tmp_path):
    make_demo_data(tmp_path / "a", SMALL)
    make_demo_data(tmp_path / "b", dataclasses.replace(SMALL, num_train=3))
    name = "train/000002.jpg"
    assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


@pytest.mark.parametrize("damage", ["stamp", "image", "annotation"])
def test_damaged_folder_is_drawn_anew(tmp_path, damage):
    make_demo_data(tmp_path, SMALL)
    before = snapshot(tmp_path)
    if damage == "stamp":
        (tmp_path / STAMP).unlink()
    elif damage == "image":
        (tmp_path / "val" / "000001.jpg").unlink()
    else:
        path = tmp_path / "annotations" / "val.json"
        path.write_text(path.read_text().replace("circle", "disc"))
    assert not is_complete(tmp_path, SMALL)
    assert make_demo_data(tmp_path, SMALL)
    assert snapshot(tmp_path) == before


def test_foreign_files_are_never_removed(tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(FileExistsError, match=r"thesis\.tex"):
        make_demo_data(tmp_path, SMALL)
    assert os.listdir(tmp_path) == ["thesis.tex"]


def test_boxes_are_tight(monkeypatch):
    """White shapes on black: the pixels that are lit span the box."""
    monkeypatch.setattr(demo_shapes, "_background", lambda rng, size: np.zeros((size, size, 3), np.uint8))
    monkeypatch.setattr(demo_shapes, "_fill", lambda rng, size, behind: np.full((size, size, 3), 255, np.uint8))
    parameters, checked = ShapesParameters(max_objects=1), 0
    for seed in range(40):
        image, objects = draw_image(np.random.default_rng(seed), parameters)
        ys, xs = np.nonzero(np.asarray(image)[..., 0] > 20)
        if not objects:
            assert not len(xs)
            continue
        x, y, w, h = objects[0]["bbox"]
        lit = np.array([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1])
        assert np.abs(lit - [x, y, x + w, y + h]).max() < 2, objects
        checked += 1
    assert checked > 30


def test_shapes_that_would_hide_others_are_refused():
    parameters = ShapesParameters(max_objects=12, max_scale=0.9)
    counts = [len(draw_image(np.random.default_rng(s), parameters)[1]) for s in range(30)]
    assert max(counts) < 12  # some were refused
    assert min(counts) >= 1


def test_command(tmp_path):
    command = [sys.executable, str(ROOT / "tools/make_demo_data.py"), "--output", str(tmp_path / "d"), "--seed", "3"]
    command += ["--num-train", "3", "--num-val", "2", "--image-size", "48"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    outputs = [subprocess.run(command, env=environment, check=True, capture_output=True, text=True) for _ in range(2)]
    assert "drawn in" in outputs[0].stdout
    assert "already there" in outputs[1].stdout
    stamp = json.loads((tmp_path / "d" / STAMP).read_text())
    assert stamp["parameters"]["seed"] == 3
