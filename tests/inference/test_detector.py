"""Predictions from a checkpoint alone: the evaluation's own, on whatever there is."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from detector_workspace import CONFIG, config, images
from detectron2.config import instantiate
from detectron2.structures import Boxes, Instances
from PIL import Image
from stub_detector import write_config

from detrex.checkpoint import Checkpointer, CheckpointError
from detrex.cli.train import build_parser
from detrex.config import ConfigError
from detrex.data import prepare_data, read_image
from detrex.data.datasets.shapes import CLASS_NAMES
from detrex.engine.evaluation import evaluate
from detrex.engine.train import main as train_main
from detrex.inference.detector import Detector


def same(first: Instances, second: Instances) -> bool:
    return torch.equal(first.pred_boxes.tensor, second.pred_boxes.tensor) and torch.equal(first.scores, second.scores)


# ------------------------------------------------------------------------------------------------------ from a file
def test_boxes_equal_the_evaluators_to_the_last_digit(workspace, detector, tmp_path):
    cfg = config(workspace)
    cfg.train.output_dir = cfg.dataloader.evaluator.output_dir = str(tmp_path)
    prepare_data(cfg, train=False)
    model = instantiate(cfg.model)
    Checkpointer(model).load(str(workspace / "model.pth"))
    evaluate(cfg, model)
    evaluated = json.loads((tmp_path / "coco_instances_results.json").read_text())
    predicted = detector.predict(workspace / "data" / "val", threshold=0)
    ours = [record for image_id, found in enumerate(predicted, 1) for record in found.to_coco(image_id)]
    assert len(ours) > 100
    assert ours == evaluated
    assert detector.mapper.map_image(np.zeros((96, 96, 3), np.uint8))["image"].shape == (3, 150, 150)


def test_the_file_knows_the_model_its_classes_and_no_path(workspace, detector):
    metadata = torch.load(workspace / "model.pth", weights_only=True)["metadata"]
    assert set(metadata) == {"class_names", "category_ids", "config"}
    assert str(workspace) not in json.dumps(metadata)
    assert json.loads(json.dumps(metadata)) == metadata
    assert detector.class_names == CLASS_NAMES
    assert detector.category_ids == (1, 2, 3, 4, 5)
    assert detector.model.num_classes == 5
    assert detector.model.num_select == 40


def test_overrides_and_names_of_the_callers(workspace):
    file = workspace / "model.pth"
    names = ["a", "b", "c", "d", "e"]
    detector = Detector.from_checkpoint(file, device="cpu", overrides=["model.num_select=7"], class_names=names)
    found = detector.predict(images(workspace)[0], threshold=0)
    assert len(found) <= 7
    assert set(found.names) <= set(names)
    with pytest.raises(ValueError, match=r"2 class names, but the model in .* has num_classes=5"):
        Detector.from_checkpoint(file, class_names=["a", "b"])
    with pytest.raises(ConfigError, match=r"did you mean model\.num_select"):
        Detector.from_checkpoint(file, overrides=["model.num_selec=7"])
    with pytest.raises(ValueError, match="dtype='half' must be one of float32, bfloat16, float16"):
        Detector.from_checkpoint(file, device="cpu", dtype="half")
    with pytest.raises(ConfigError, match="cuda:99"):
        Detector.from_checkpoint(file, device="cuda:99")


def test_a_file_without_a_config_needs_one(workspace, detector, tmp_path):
    state = torch.load(workspace / "model.pth", weights_only=True)["model"]
    torch.save({"model": state}, tmp_path / "bare.pth")
    with pytest.raises(CheckpointError, match=r"bare.pth holds no config: give that of its model as config_file"):
        Detector.from_checkpoint(tmp_path / "bare.pth")
    overrides = ["dataloader.data.root=/nowhere", "dataloader.test.mapper.augmentation.0.short_edge_length=150"]
    arguments = {"config_file": CONFIG, "class_names": CLASS_NAMES, "device": "cpu"}
    again = Detector.from_checkpoint(tmp_path / "bare.pth", overrides=overrides, **arguments)
    image = images(workspace)[0]
    found = again.predict(image, threshold=0)
    assert same(found[:40], detector.predict(image, threshold=0))
    assert {record["category_id"] for record in found.to_coco()} <= set(range(5))  # no data set is known


def test_names_from_the_data_of_a_config(workspace, tmp_path):
    state = torch.load(workspace / "model.pth", weights_only=True)["model"]
    torch.save({"model": state}, tmp_path / "bare.pth")
    overrides = [f"dataloader.data.root={workspace / 'data'}", f"train.output_dir={tmp_path}"]
    detector = Detector.from_checkpoint(tmp_path / "bare.pth", config_file=CONFIG, overrides=overrides, device="cpu")
    assert detector.class_names == CLASS_NAMES
    assert detector.category_ids == (1, 2, 3, 4, 5)


def test_what_training_writes_is_enough(tmp_path):
    """Also the best weights; a model of another package has to be allowed by name."""
    config_file = write_config(tmp_path)
    train_main(
        build_parser().parse_args(["--config-file", str(config_file), "train.max_iter=2", "train.eval_period=2"])
    )
    for name in ("model_final.pth", "model_best.pth"):
        file = tmp_path / "output" / name
        with pytest.raises(ConfigError, match=r"model_\w+.pth: the config in it: model._target_: stub_detector.Stub"):
            Detector.from_checkpoint(file)
        found = Detector.from_checkpoint(file, device="cpu", allow=["stub_detector"]).predict(
            tmp_path / "data" / "0.png"
        )
        assert set(found.names) <= {"red", "green"}


# ------------------------------------------------------------------------------------------------ sources and results
def test_every_kind_of_image_gives_the_same(workspace, detector):
    file = images(workspace)[0]
    found = detector.predict(file, threshold=0)
    assert isinstance(found, Instances)
    assert isinstance(found.pred_boxes, Boxes)
    assert found.file == file
    assert found.image_size == (96, 96)
    assert (found.scores.diff() <= 0).all()
    with Image.open(file) as picture:
        for source in (Path(file), read_image(file), picture, picture.copy()):
            assert same(detector.predict(source, threshold=0), found)


def test_channel_order_of_the_model(workspace, detector):
    image = read_image(images(workspace)[0])
    swapped = Detector(model=detector.model, mapper=instantiate(config(workspace).dataloader.test.mapper))
    swapped.mapper.img_format = "BGR"
    assert same(swapped.predict(image[..., ::-1], threshold=0), detector.predict(image, threshold=0))
    assert swapped.predict(image, threshold=0).names[0].startswith("class ")


def test_threshold(workspace, detector):
    everything = detector.predict(images(workspace)[0], threshold=0)
    middle = float(everything.scores[len(everything) // 2])
    found = detector.predict(images(workspace)[0], threshold=middle)
    assert 0 < len(found) < len(everything)
    assert float(found.scores.min()) >= middle


def test_lists_of_mixed_sizes_and_batches(workspace, detector):
    first = read_image(images(workspace)[0])
    sources = [
        first,
        first[:70, :90].copy(),
        Image.fromarray(first[10:, 20:]),
        images(workspace)[1],
        first[:, :50].copy(),
    ]
    singles = [detector.predict(source, threshold=0) for source in sources]
    together = detector.predict(sources, threshold=0, batch_size=3)
    assert isinstance(together, list)
    assert [found.image_size for found in together] == [(96, 96), (70, 90), (86, 76), (96, 96), (96, 50)]
    for alone, found in zip(singles, together, strict=True):
        torch.testing.assert_close(found.scores[:10], alone.scores[:10], rtol=0, atol=1e-5)
        torch.testing.assert_close(found.pred_boxes.tensor[:10], alone.pred_boxes.tensor[:10], rtol=0, atol=1e-2)
    one_by_one = detector.predict(sources, threshold=0)
    assert all(same(alone, found) for alone, found in zip(singles, one_by_one, strict=True))
    assert detector.predict([]) == []
    with pytest.raises(ValueError, match="batch_size=0"):
        detector.predict(sources, batch_size=0)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision(workspace, detector, dtype):
    half = Detector.from_checkpoint(workspace / "model.pth", device="cpu", dtype=dtype)
    found = half.predict(images(workspace)[:2], threshold=0, batch_size=2)[1]
    full = detector.predict(images(workspace)[1], threshold=0)
    assert found.scores.dtype == found.pred_boxes.tensor.dtype == torch.float32
    assert not torch.equal(found.scores, full.scores)
    torch.testing.assert_close(found.scores[:10], full.scores[:10], rtol=0, atol=0.03)


def test_a_folder_streams_in_the_order_of_names(workspace, detector, tmp_path, caplog):
    for name in ("b.png", "a.jpg", "d.png"):
        shutil.copy(images(workspace)[0], tmp_path / name)
    (tmp_path / "c.png").write_bytes(b"no image")
    (tmp_path / "._a.jpg").write_bytes(b"\0\5\x16\7 of macOS")
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "notes.txt").touch()
    stream = detector.predict(tmp_path, batch_size=2)
    assert isinstance(stream, Iterator)
    assert [Path(found.file).name for found in stream] == ["a.jpg", "b.png", "d.png"]
    skipped = [r.message for r in caplog.records if r.message.startswith("Skipped")]
    assert len(skipped) == 2
    assert "c.png" in skipped[0]
    assert "pipe.png" in skipped[1]


def test_a_folder_of_which_nothing_can_be_read(detector, tmp_path):
    with pytest.raises(FileNotFoundError, match="no images in the folder"):
        next(detector.predict(str(tmp_path)))
    (tmp_path / "c.png").write_bytes(b"no image")
    with pytest.raises(OSError, match=r"none of its 1 image can be read; the first: .*c\.png"):
        next(detector.predict(str(tmp_path)))


def test_a_failure_of_the_machine_is_no_broken_image(workspace, detector, monkeypatch):
    def fail(path):
        try:
            raise OSError(errno.EMFILE, "Too many open files")
        except OSError as e:
            raise OSError(f"{path}: cannot read the image") from e

    monkeypatch.setattr("detrex.inference.inputs.read_image", fail)
    with pytest.raises(OSError, match="cannot read the image"):
        next(detector.predict(workspace / "data" / "val"))


def test_a_tilde_is_the_home_folder(workspace, detector, monkeypatch):
    monkeypatch.setenv("HOME", str(workspace))
    assert Detector.from_checkpoint("~/model.pth", device="cpu").class_names == CLASS_NAMES
    name = Path(images(workspace)[0]).name
    assert same(
        detector.predict(f"~/data/val/{name}", threshold=0), detector.predict(images(workspace)[0], threshold=0)
    )
    assert len(list(detector.predict("~/data/val"))) == 6
    assert len(detector.predict([Path(f"~/data/val/{name}")])) == 1


def test_class_names_in_another_order_are_matched_by_name(workspace, detector, tmp_path):
    image = images(workspace)[0]
    swapped = Detector.from_checkpoint(workspace / "model.pth", device="cpu", class_names=CLASS_NAMES[::-1])
    assert swapped.predict(image, threshold=0).names == detector.predict(image, threshold=0).names
    # Data that list the classes in another order, in the config beside a checkpoint that knows its own.
    shutil.copytree(workspace / "data", tmp_path / "data")
    for path in (tmp_path / "data" / "annotations").iterdir():
        content = json.loads(path.read_text())
        for category in content["categories"]:
            category["id"] = 6 - category["id"]
        for annotation in content["annotations"]:
            annotation["category_id"] = 6 - annotation["category_id"]
        path.write_text(json.dumps(content))
    overrides = [f"dataloader.data.root={tmp_path}/data", "dataloader.test.mapper.augmentation.0.short_edge_length=150"]
    other = Detector.from_checkpoint(workspace / "model.pth", config_file=CONFIG, overrides=overrides, device="cpu")
    found, expected = (d.predict(image, threshold=0) for d in (other, detector))
    assert found.names[:40] == expected.names
    assert found.to_coco()[0]["category_id"] == expected.to_coco()[0]["category_id"]


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        ("absent.jpg", OSError, "absent.jpg"),
        (np.zeros((4, 4), np.uint8), ValueError, r"must be \(H, W, 3\) uint8 RGB, got \(4, 4\) uint8"),
        (np.zeros((4, 4, 3), np.float32), ValueError, "float32"),
        (Image.new("I;16", (4, 4)), ValueError, "I;16 has more than 8 bits"),
        (torch.zeros(3, 4, 4), TypeError, "cannot detect on a Tensor"),
        ([3], TypeError, "cannot detect on a int"),
    ],
)
def test_wrong_sources(detector, source, error, message):
    with pytest.raises(error, match=message):
        detector.predict(source)
