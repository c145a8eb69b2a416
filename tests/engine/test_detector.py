from __future__ import annotations

import json
import runpy
import shutil
import sys
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.config import instantiate
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import Boxes, Instances
from PIL import Image
from stub_detector import write_config

import detrex
from detrex.checkpoint import Checkpointer, CheckpointError
from detrex.config import ConfigError, load_config
from detrex.data import category_ids, prepare_data, read_image
from detrex.data.demo_shapes import CLASS_NAMES, ShapesParameters, make_demo_data
from detrex.engine.annotate import annotate
from detrex.engine.detections import Detections
from detrex.engine.detector import Detector, checkpoint_metadata
from detrex.engine.evaluation import evaluate
from detrex.engine.inputs import find_inputs
from detrex.engine.launch import build_parser
from detrex.engine.train import main as train_main

ROOT = Path(__file__).resolve().parents[2]
CONFIG = str(ROOT / "projects/deformable_detr/configs/custom_small.py")


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    """Generated images, and a checkpoint of a small model with random weights as training would write it."""
    folder = tmp_path_factory.mktemp("detector")
    make_demo_data(folder / "data", ShapesParameters(num_train=2, num_val=6, image_size=96))
    cfg = config(folder)
    info = prepare_data(cfg)
    torch.manual_seed(0)
    metadata = checkpoint_metadata(cfg, class_names=info.class_names, category_ids=category_ids(info.test_name))
    Checkpointer(instantiate(cfg.model), str(folder), metadata=metadata).save("model")
    yield folder
    for name in (info.train_name, info.test_name):
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def config(workspace):
    """Images of 96 pixels are enlarged to 150."""
    edge = "dataloader.test.mapper.augmentation.0.short_edge_length=150"
    return load_config(CONFIG, [f"dataloader.data.root={workspace / 'data'}", edge, "model.num_select=40"])


@pytest.fixture(scope="module")
def detector(workspace) -> Detector:
    return detrex.Detector.from_checkpoint(workspace / "model.pth", device="cpu")


def images(workspace) -> list[str]:
    return [str(p) for p in sorted((workspace / "data" / "val").iterdir())]


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


def test_a_folder_streams_in_the_order_of_names(workspace, detector, tmp_path):
    for name in ("b.png", "a.jpg"):
        shutil.copy(images(workspace)[0], tmp_path / name)
    (tmp_path / "c.png").write_bytes(b"no image")
    (tmp_path / "notes.txt").touch()
    stream = detector.predict(tmp_path)
    assert isinstance(stream, Iterator)
    assert [Path(next(stream).file).name for _ in range(2)] == ["a.jpg", "b.png"]
    with pytest.raises(OSError, match=r"c\.png"):
        next(stream)
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="no images in the folder"):
        next(detector.predict(str(tmp_path / "empty")))


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


def detections(**kwargs) -> Detections:
    return Detections(
        (20, 30),
        class_names=("red", "green"),
        category_ids=(4, 9),
        pred_boxes=Boxes(torch.tensor([[1.0, 2.0, 11.0, 22.0], [3.0, 4.0, 8.0, 9.0], [0.0, 0.0, 1.0, 1.0]])),
        scores=torch.tensor([0.75, 0.5, 0.25]),
        pred_classes=torch.tensor([1, 0, 7]),
        **kwargs,
    )


def test_what_belongs_to_detections_stays_with_a_selection():
    found = detections(image=np.zeros((20, 30, 3), np.uint8), file="film.mp4", frame=3)
    best = found[found.scores > 0.3].to("cpu")
    assert type(best) is Detections
    assert (best.names, best.file, best.frame) == (["green", "red"], "film.mp4", 3)
    assert best[0].image() is found.image()
    assert found.names[2] == "class 7"


def test_as_records_and_as_coco():
    found = detections()
    assert found.to_records()[0] == {
        "box": [1.0, 2.0, 11.0, 22.0],
        "score": 0.75,
        "category_id": 1,
        "category_name": "green",
    }
    assert found.to_coco(image_id=5)[:2] == [
        {"image_id": 5, "category_id": 9, "bbox": [1.0, 2.0, 10.0, 20.0], "score": 0.75},
        {"image_id": 5, "category_id": 4, "bbox": [3.0, 4.0, 5.0, 5.0], "score": 0.5},
    ]
    assert [entry["category_id"] for entry in found.to_coco()] == [9, 4, 7]


def test_as_supervision(monkeypatch):
    pytest.importorskip("supervision")
    found = detections().to_supervision()
    assert found.xyxy.tolist()[0] == [1.0, 2.0, 11.0, 22.0]
    assert found.confidence.tolist() == [0.75, 0.5, 0.25]
    assert found.class_id.tolist() == [1, 0, 7]
    assert found["class_name"].tolist() == ["green", "red", "class 7"]
    assert len(detections()[torch.zeros(3, dtype=torch.bool)].to_supervision()) == 0
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(ImportError, match=r"pip install 'detrex\[supervision\]'"):
        detections().to_supervision()


def test_plot_draws_on_the_image(tmp_path):
    grey = np.full((20, 30, 3), 90, np.uint8)
    drawn = detections(image=grey).plot(scale=2)
    assert drawn.size == (60, 40)
    assert len(np.unique(np.asarray(drawn).reshape(-1, 3), axis=0)) > 3
    assert (grey == 90).all()
    Image.fromarray(grey).save(tmp_path / "grey.png")
    from_file = detections(image=str(tmp_path / "grey.png"), file=str(tmp_path / "grey.png"))
    assert np.array_equal(from_file.plot(scale=2), drawn)
    with pytest.raises(ValueError, match="know of no image"):
        detections().plot()


# ------------------------------------------------------------------------------------------------------------- videos
@pytest.fixture
def film(workspace, tmp_path) -> Path:
    """Six frames at ten a second."""
    pytest.importorskip("av")
    from detrex.engine.video import write_frames

    write_frames(str(tmp_path / "film.mp4"), [read_image(p) for p in images(workspace)], Fraction(10))
    return tmp_path / "film.mp4"


def test_a_video_streams_its_frames(film, detector):
    from detrex.engine.video import frame_rate, read_frames

    assert frame_rate(str(film)) == 10
    stream = detector.predict(film, threshold=0, batch_size=4)
    assert isinstance(stream, Iterator)
    found = list(stream)
    assert [(f.file, f.frame) for f in found] == [(str(film), i) for i in range(6)]
    frames = list(read_frames(str(film)))
    assert np.array_equal(found[5].image(), frames[5])
    assert found[2].plot().size == (96, 96)


def test_an_annotated_video(film, detector, tmp_path):
    import av

    summary = annotate(detector, [str(film)], tmp_path / "out", threshold=0.01)
    assert summary.done
    records = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert [r["frame"] for r in records] == list(range(6))
    with av.open(str(tmp_path / "out" / "film.mp4")) as container:
        assert sum(1 for _ in container.decode(video=0)) == 6
    (tmp_path / "broken.mp4").write_bytes(b"x" * 100)
    assert annotate(detector, [str(tmp_path / "broken.mp4")], tmp_path / "out2").failed


def test_video_without_av_names_the_package(detector, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    (tmp_path / "film.mp4").touch()
    summary = annotate(detector, [str(tmp_path / "film.mp4")], tmp_path / "out")
    assert "pip install av" in summary.failed[0][1]


# ------------------------------------------------------------------------------------------------------ tools/demo.py
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


def test_same_names_do_not_overwrite_each_other(detector, workspace, tmp_path):
    source = images(workspace)[0]
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        shutil.copy(source, tmp_path / folder / "x.jpg")
    summary = annotate(detector, find_inputs([str(tmp_path / "a"), str(tmp_path / "b")]), tmp_path / "out")
    assert len(summary.done) == 2
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"x.jpg", "x_2.jpg", "predictions.json"}
    with pytest.raises(ValueError, match="would be overwritten"):
        annotate(detector, [str(tmp_path / "a" / "x.jpg")], tmp_path / "a")


@pytest.fixture
def run_tool(workspace, monkeypatch):
    """tools/demo.py in this process: (output, *inputs) -> exit status."""
    main = runpy.run_path(str(ROOT / "tools/demo.py"))["main"]
    monkeypatch.setitem(main.__globals__, "setup_logger", lambda **kwargs: None)

    def run(output, *inputs):
        options = ["--weights", str(workspace / "model.pth"), "--output", str(output), "--device", "cpu"]
        monkeypatch.setattr(sys, "argv", ["demo.py", *options, "--threshold", "0.01", "--input", *map(str, inputs)])
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
