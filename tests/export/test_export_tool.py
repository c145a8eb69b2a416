"""``detrex export`` as it is called."""

from __future__ import annotations

import json
import shutil

import pytest
from detector_workspace import CONFIG, config, images

from detrex.cli.export import main
from detrex.data import read_image
from detrex.export.comparison import evaluate_each
from detrex.export.runtime import OnnxDetector

onnx = pytest.importorskip("onnx", reason="pip install 'detrex[export]'")
pytest.importorskip("onnxruntime", reason="pip install 'detrex[export]'")
pytest.importorskip("onnxscript", reason="pip install 'detrex[export]'")


def tool(*arguments: str) -> int:
    return main(arguments)


def test_a_checkpoint_is_enough(workspace, tmp_path, capsys):
    weights, small = str(workspace / "model.pth"), ["--fixed-size", "96x96", "--batch-size", "1", "--formats", "onnx"]
    assert tool("--weights", weights, "--output", str(tmp_path), *small) == 0
    assert "allowed 1e-05" in capsys.readouterr().out
    shape = onnx.load(tmp_path / "model.onnx").graph.input[0].type.tensor_type.shape
    assert [axis.dim_value for axis in shape.dim] == [1, 3, 96, 96]


def test_the_file_names_classes_as_the_detector_does_whatever_the_order_of_the_data(workspace, detector, tmp_path):
    size = ["--fixed-size", "150x150", "--batch-size", "1", "--formats", "onnx"]
    assert tool("--weights", str(workspace / "model.pth"), "--output", str(tmp_path), *size) == 0
    exported = OnnxDetector(tmp_path / "model.onnx")
    assert exported.metadata["class_names"] == list(detector.class_names)
    assert exported.metadata["category_ids"] == list(detector.category_ids)
    image = read_image(images(workspace)[0])
    (found,) = exported([detector.mapper.map_image(image)])
    names = [exported.metadata["class_names"][label] for label in found["instances"].pred_classes]
    assert names[:20] == detector.predict(image, threshold=0).names[:20]

    shutil.copytree(workspace / "data", tmp_path / "swapped")
    for path in (tmp_path / "swapped" / "annotations").iterdir():
        content = json.loads(path.read_text())
        for item, key in [(c, "id") for c in content["categories"]] + [
            (a, "category_id") for a in content["annotations"]
        ]:
            item[key] = 6 - item[key]
        path.write_text(json.dumps(content))
    named = []
    for root in (workspace / "data", tmp_path / "swapped"):
        cfg = config(workspace)
        cfg.dataloader.data.root = str(root)
        evaluate_each(cfg, {"onnx": exported}, tmp_path, class_names=exported.metadata["class_names"])
        content = json.loads((root / "annotations" / "val.json").read_text())
        name_of = {c["id"]: c["name"] for c in content["categories"]}
        results = json.loads((tmp_path / "onnx" / "coco_instances_results.json").read_text())
        named.append([(r["image_id"], name_of[r["category_id"]], r["score"]) for r in results])
    assert len(named[0]) > 100
    assert sorted(named[0]) == sorted(named[1])


def test_an_evaluation_needs_a_config(workspace, tmp_path, capsys):
    assert tool("--weights", str(workspace / "model.pth"), "--output", str(tmp_path), "--evaluate") == 2
    assert "--evaluate needs --config-file" in capsys.readouterr().err


def test_overrides_are_checked(workspace, tmp_path, capsys):
    arguments = ["--config-file", CONFIG, "--weights", str(workspace / "model.pth"), "--output", str(tmp_path)]
    assert tool(*arguments, "--opts", "model.num_selct=3") == 2
    assert "num_selct" in capsys.readouterr().err
