"""Runs whose data list the classes otherwise than the checkpoint does."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from omegaconf import OmegaConf
from stub_detector import write_config

from detrex.cli.train import EXIT_CONFIG, build_parser
from detrex.cli.train import main as run
from detrex.config import find_config
from detrex.data import DataInfo, DatasetError
from detrex.data.datasets.shapes import CLASS_NAMES, ShapesParameters, make_demo_data
from detrex.engine.class_matching import follow_checkpoint_classes
from detrex.engine.train import main


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A folder with a config, its data and a run of six iterations."""
    folder = tmp_path_factory.mktemp("trained")
    write_config(folder)
    train(folder / "config.py", "train.max_iter=6", "train.eval_period=0")
    return folder


def train(config: Path, *options: str) -> dict:
    return main(build_parser().parse_args(["--config-file", str(config), *options]))


def renamed(folder: Path, names: dict[int, str], *, swap: bool = False) -> Path:
    """The data set with other names by id; with ``swap`` the ids of both classes are exchanged."""
    content = json.loads((folder / "data" / "data.json").read_text())
    other = {1: 2, 2: 1} if swap else {1: 1, 2: 2}
    for item in content["annotations"]:
        item["category_id"] = other[item["category_id"]]
    content["categories"] = [{"id": i, "name": name} for i, name in sorted(names.items())]
    path = folder / "data" / f"{'_'.join(names.values())}{swap}.json"
    path.write_text(json.dumps(content))
    return path


def data(path: Path, *splits: str) -> list[str]:
    return [f"dataloader.data.{split}_json={path}" for split in splits]


def test_an_evaluation_on_the_same_classes_in_another_order_gives_the_same_ap(trained, tmp_path):
    weights = [f"train.init_checkpoint={trained}/output/model_final.pth", f"train.output_dir={tmp_path}"]
    expected = train(trained / "config.py", "--eval-only", *weights)["bbox"]
    assert expected["AP-red"] != expected["AP-green"]
    swapped = data(renamed(trained, {1: "green", 2: "red"}, swap=True), "val")
    result = train(trained / "config.py", "--eval-only", *weights, *swapped)["bbox"]
    assert result == pytest.approx(expected, rel=0, abs=0, nan_ok=True)
    assert "has the classes of" in (tmp_path / "log.txt").read_text()


def test_an_evaluation_on_other_classes_is_an_error(trained, tmp_path, capsys):
    options = [f"train.init_checkpoint={trained}/output/model_final.pth", f"train.output_dir={tmp_path}"]
    options += data(renamed(trained, {1: "red", 2: "blue"}), "val")
    assert run(["--config-file", str(trained / "config.py"), "--eval-only", *options]) == EXIT_CONFIG
    error = capsys.readouterr().err
    assert "only in the checkpoint: green; only in the data: blue" in error
    assert "Traceback" not in error


def test_resuming_with_the_classes_in_another_order_continues_the_same_run(trained, tmp_path, capsys):
    swapped = data(renamed(trained, {1: "green", 2: "red"}, swap=True), "train", "val")
    common = ["train.max_iter=12", "train.eval_period=0", "train.checkpointer.period=6"]
    results = []
    for name, options in (("same", []), ("swapped", swapped)):
        output = f"train.output_dir={tmp_path / name}"
        train(trained / "config.py", output, "train.max_iter=12", "train.eval_period=0", "train.checkpointer.period=6")
        (tmp_path / name / "model_final.pth").unlink()
        (tmp_path / name / "last_checkpoint").write_text("model_0000005.pth")
        results.append(train(trained / "config.py", "--resume", output, *common, *options)["bbox"])
    assert results[0] == pytest.approx(results[1], rel=0, abs=0, nan_ok=True)
    files = [torch.load(tmp_path / name / "model_final.pth", weights_only=True) for name in ("same", "swapped")]
    assert files[1]["metadata"]["class_names"] == ["red", "green"]
    assert files[1]["metadata"]["category_ids"] == [2, 1]
    for name, value in files[0]["model"].items():
        assert torch.equal(value, files[1]["model"][name]), name
    other = data(renamed(trained, {1: "red", 2: "blue"}), "train", "val")
    arguments = ["--config-file", str(trained / "config.py"), "--resume", f"train.output_dir={tmp_path / 'same'}"]
    assert run([*arguments, *common, *other]) == EXIT_CONFIG
    assert "only in the data: blue" in capsys.readouterr().err


@pytest.mark.parametrize("reinit", ["[]", "[class_embed]"])
def test_fine_tuning_on_other_classes_keeps_the_rows_of_shared_names(tmp_path, reinit):
    """One more class, one less, another order; the proposals' row 0 is objectness and stays."""
    make_demo_data(tmp_path / "data", ShapesParameters(num_train=8, num_val=2, image_size=64))
    config = find_config("projects/deformable_detr/configs/demo_shapes.py")
    common = ["train.max_iter=1", "train.warmup=0", "train.device=cpu", "train.report=false", "optimizer.lr=0",
              "model.transformer.queries.groups.one2one=12", f"dataloader.data.root={tmp_path}/data",
              "model.num_classes=80"]  # fmt: skip
    train(config, *common, f"train.output_dir={tmp_path}/old", "train.seed=1")
    for path in (tmp_path / "data" / "annotations").iterdir():
        content = json.loads(path.read_text())
        names = {c["id"]: c["name"] for c in content["categories"]}
        new = ["heart", *(name for name in reversed(CLASS_NAMES) if name != "star"), "moon"]
        for annotation in content["annotations"]:
            name = names[annotation["category_id"]]
            annotation["category_id"] = 1 + (new.index(name) if name in new else 0)
        content["categories"] = [{"id": i, "name": name} for i, name in enumerate(new, 1)]
        path.write_text(json.dumps(content))
    options = [f"train.init_checkpoint={tmp_path}/old/model_final.pth", f"train.checkpoint.reinit={reinit}"]
    train(config, *common, *options, f"train.output_dir={tmp_path}/new", "train.seed=2")
    old, file = (torch.load(tmp_path / name / "model_final.pth", weights_only=True) for name in ("old", "new"))
    assert file["metadata"]["class_names"] == new
    heads = [name for name in file["model"] if "decoder.heads" in name and "class_embed" in name]
    assert heads
    for name in heads:
        for row, label in enumerate(new):
            if label in CLASS_NAMES:
                assert torch.equal(file["model"][name][row], old["model"][name][CLASS_NAMES.index(label)])
            elif name.endswith("bias"):
                assert float(file["model"][name][row].detach()) == pytest.approx(-4.595, abs=1e-3)  # the initial one
    proposals = "transformer.queries.proposals.head.class_embed.weight"
    assert torch.equal(file["model"][proposals][0], old["model"][proposals][0])
    rest = "transformer.encoder.layers.0.ffn.linear1.weight"
    assert torch.equal(file["model"][rest], old["model"][rest])
    assert "keep the rows of cross, triangle, square, circle; 2 of 6 rows are" in (tmp_path / "new/log.txt").read_text()


def test_a_model_whose_classifier_is_not_known_says_so(trained, tmp_path):
    options = [f"train.init_checkpoint={trained}/output/model_final.pth", f"train.output_dir={tmp_path}"]
    options += data(renamed(trained, {1: "red", 2: "blue"}), "train", "val")
    train(trained / "config.py", *options, "train.max_iter=1", "train.eval_period=0", "train.warmup=0")
    assert "StubDetector has no class_embed to match them by name in" in (tmp_path / "log.txt").read_text()


@pytest.mark.parametrize("names", [{1: "green", 2: "red"}, {1: "red", 2: "blue"}])
def test_registered_data_sets_follow_the_one_that_trains(trained, names):
    for split, path in (("train", trained / "data" / "data.json"), ("val", renamed(trained, names, swap=True))):
        register_coco_instances(f"registered_{split}", {}, str(path), str(trained / "data"))
    try:
        cfg = OmegaConf.create({"train": {"init_checkpoint": "", "output_dir": "none"}})
        for split in ("train", "test"):
            OmegaConf.update(cfg, f"dataloader.{split}.dataset.names", f"registered_{split.replace('test', 'val')}")
        info = DataInfo("registered_train", "registered_val", (), 12)
        if "blue" in names.values():
            with pytest.raises(DatasetError, match="only in the training data: green; only in the data: blue"):
                follow_checkpoint_classes(cfg, info, resume=False, eval_only=False)
        else:
            info = follow_checkpoint_classes(cfg, info, resume=False, eval_only=False)
            assert info.class_names == ("red", "green")
            ids = [[a["category_id"] for r in DatasetCatalog.get(n) for a in r["annotations"]]
                   for n in ("registered_train", "registered_val")]  # fmt: skip
            assert ids[0] == ids[1]
    finally:
        for split in ("train", "val"):
            DatasetCatalog.remove(f"registered_{split}")
            MetadataCatalog.remove(f"registered_{split}")
