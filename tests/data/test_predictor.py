from __future__ import annotations

import json
import runpy
import shutil
import sys

import numpy as np
import pytest
import torch
from coco_files import ROOT
from detectron2.config import instantiate
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from detrex.checkpoint import Checkpointer
from detrex.config import load_config
from detrex.data import prepare_data, read_image
from detrex.data.demo_shapes import CLASS_NAMES, ShapesParameters, make_demo_data
from detrex.engine.annotate import annotate, find_inputs
from detrex.engine.evaluation import evaluate
from detrex.engine.predictor import Predictor, instances_to_records

CONFIG = str(ROOT / "projects/deformable_detr/configs/demo_shapes.py")


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    """Generated images and a checkpoint of the demo model with random weights."""
    folder = tmp_path_factory.mktemp("predictor")
    make_demo_data(folder / "data", ShapesParameters(num_train=2, num_val=6, image_size=96))
    torch.manual_seed(0)
    model = instantiate(load_config(CONFIG).model)
    Checkpointer(model, str(folder), metadata={"class_names": list(CLASS_NAMES)}).save("model")
    yield folder
    for name in ("demo_shapes_train", "demo_shapes_val"):
        if name in DatasetCatalog:
            DatasetCatalog.remove(name)
            MetadataCatalog.remove(name)


@pytest.fixture
def cfg(workspace):
    overrides = [f"dataloader.data.root={workspace / 'data'}", "train.device=cpu"]
    return load_config(CONFIG, [*overrides, "dataloader.test.mapper.augmentation=[]"])


@pytest.fixture
def predictor(cfg, workspace):
    return Predictor.from_config(cfg, str(workspace / "model.pth"))


def images(workspace):
    return [str(p) for p in sorted((workspace / "data" / "val").iterdir())]


def test_boxes_equal_the_evaluators_to_the_last_digit(cfg, workspace, predictor, tmp_path):
    prepare_data(cfg, train=False)
    cfg.dataloader.evaluator.output_dir = str(tmp_path)
    model = instantiate(cfg.model)
    Checkpointer(model).load(str(workspace / "model.pth"))
    evaluate(cfg, model)
    evaluated = json.loads((tmp_path / "coco_instances_results.json").read_text())
    summary = annotate(predictor, images(workspace), tmp_path / "out", threshold=0.0)
    assert len(summary.done) == 6
    predicted = json.loads((tmp_path / "out" / "predictions.json").read_text())
    ours = []
    for image_id, record in enumerate(predicted, 1):
        for p in record["predictions"]:
            x1, y1, x2, y2 = np.asarray(p["box"], dtype=np.float32)
            box = [float(v) for v in (x1, y1, x2 - x1, y2 - y1)]
            ours.append((image_id, p["category_id"] + 1, p["score"], box))
    assert len(ours) > 100
    assert ours == [(r["image_id"], r["category_id"], r["score"], r["bbox"]) for r in evaluated]


def test_names_and_class_count_come_from_the_checkpoint(workspace):
    cfg = load_config(CONFIG, ["model.num_classes=80", "train.device=cpu", "dataloader.data.root=/nowhere"])
    predictor = Predictor.from_config(cfg, str(workspace / "model.pth"))
    assert predictor.class_names == CLASS_NAMES
    assert cfg.model.num_classes == 5
    assert predictor.name(1) == "square"
    assert predictor.name(9) == "class 9"


def test_array_and_channel_order(predictor, workspace):
    image = read_image(images(workspace)[0])
    expected = predictor(image)
    assert len(expected)
    assert expected.image_size == image.shape[:2]
    assert (expected.scores.diff() <= 0).all()
    predictor.mapper.img_format = "BGR"
    swapped = predictor(np.ascontiguousarray(image[..., ::-1]))
    assert torch.equal(swapped.pred_boxes.tensor, expected.pred_boxes.tensor)
    assert torch.equal(swapped.scores, expected.scores)


def test_threshold(predictor, workspace):
    instances = predictor(read_image(images(workspace)[0]))
    middle = float(instances.scores[len(instances) // 2])
    records = instances_to_records(instances, predictor, middle)
    assert 0 < len(records) < len(instances)
    assert all(r["score"] >= middle for r in records)
    assert set(records[0]) == {"box", "score", "category_id", "category_name"}


def test_find_inputs(tmp_path):
    for name in ("b.JPG", "a.png", "notes.txt", "film.mp4"):
        (tmp_path / name).touch()
    assert [p.rsplit("/", 1)[1] for p in find_inputs([str(tmp_path)])] == ["a.png", "b.JPG", "film.mp4"]
    assert find_inputs([str(tmp_path / "*.png"), str(tmp_path / "a.png")]) == [str(tmp_path / "a.png")]
    for bad in ("absent.jpg", "*.gif"):
        with pytest.raises(FileNotFoundError, match="no such file"):
            find_inputs([str(tmp_path / bad)])
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="empty"):
        find_inputs([str(tmp_path / "empty")])


def test_same_names_do_not_overwrite_each_other(predictor, workspace, tmp_path):
    source = images(workspace)[0]
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        shutil.copy(source, tmp_path / folder / "x.jpg")
    summary = annotate(predictor, find_inputs([str(tmp_path / "a"), str(tmp_path / "b")]), tmp_path / "out")
    assert len(summary.done) == 2
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"x.jpg", "x_2.jpg", "predictions.json"}
    with pytest.raises(ValueError, match="would be overwritten"):
        annotate(predictor, [str(tmp_path / "a" / "x.jpg")], tmp_path / "a")


@pytest.fixture
def run_tool(workspace, monkeypatch):
    """tools/demo.py in this process: (output, *inputs) -> exit status."""
    main = runpy.run_path(str(ROOT / "tools/demo.py"))["main"]
    monkeypatch.setitem(main.__globals__, "setup_logger", lambda **kwargs: None)

    def run(output, *inputs):
        options = ["--config-file", CONFIG, "--weights", str(workspace / "model.pth"), "--output", str(output)]
        options += ["--threshold", "0.01", "--input", *map(str, inputs), "--opts", "train.device=cpu"]
        monkeypatch.setattr(sys, "argv", ["demo.py", *options])
        return main()

    return run


def test_command_names_and_counts_bad_images(run_tool, workspace, tmp_path, capsys):
    (tmp_path / "broken.jpg").write_bytes(b"not an image")
    good = images(workspace)[0]
    assert run_tool(tmp_path / "out", good, tmp_path / "broken.jpg") == 0
    printed = capsys.readouterr().out
    assert "1 of 2 files done" in printed
    assert f"skipped {tmp_path / 'broken.jpg'}" in printed
    records = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert [r["file"] for r in records] == [good]
    assert (records[0]["height"], records[0]["width"]) == (96, 96)
    assert records[0]["predictions"][0]["category_name"] in CLASS_NAMES
    with Image.open(tmp_path / "out" / "000000.jpg") as drawn, Image.open(good) as original:
        assert drawn.size == original.size
        assert np.abs(np.asarray(drawn).astype(int) - np.asarray(original)).max() > 100


def test_command_fails_when_every_image_does(run_tool, tmp_path, capsys):
    (tmp_path / "broken.jpg").write_bytes(b"not an image")
    assert run_tool(tmp_path / "out", tmp_path / "broken.jpg") == 1
    assert run_tool(tmp_path / "out", tmp_path / "absent.jpg") == 2
    assert "absent.jpg" in capsys.readouterr().err


def test_video(predictor, workspace, tmp_path):
    av = pytest.importorskip("av")
    from fractions import Fraction

    from detrex.engine.video import read_frames, write_frames

    frames = [read_image(p) for p in images(workspace)]
    write_frames(str(tmp_path / "in.mp4"), frames, Fraction(10))
    rate, decoded = read_frames(str(tmp_path / "in.mp4"))
    assert rate == 10
    assert len(list(decoded)) == len(frames)
    summary = annotate(predictor, [str(tmp_path / "in.mp4")], tmp_path / "out", threshold=0.01)
    assert summary.done
    records = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert [r["frame"] for r in records] == list(range(6))
    with av.open(str(tmp_path / "out" / "in.mp4")) as container:
        assert sum(1 for _ in container.decode(video=0)) == 6
    (tmp_path / "broken.mp4").write_bytes(b"x" * 100)
    assert annotate(predictor, [str(tmp_path / "broken.mp4")], tmp_path / "out2").failed


def test_video_without_av_names_the_package(predictor, workspace, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    (tmp_path / "film.mp4").touch()
    summary = annotate(predictor, [str(tmp_path / "film.mp4")], tmp_path / "out")
    assert "pip install av" in summary.failed[0][1]
