from __future__ import annotations

import copy
import logging

import pytest
import torch
from coco_files import DATA_CONFIGS, SIZE, coco_content
from detectron2.config import LazyConfig, instantiate
from detectron2.data import DatasetCatalog, MetadataCatalog, get_detection_dataset_dicts
from detectron2.structures import Boxes, Instances
from omegaconf import DictConfig, OmegaConf

from detrex.data import DatasetError, build_coco_evaluator, prepare_data

NAME = "prepare_test"


@pytest.fixture(autouse=True)
def _clean_catalogs():
    yield
    for name in (f"{NAME}_train", f"{NAME}_val"):
        if name in DatasetCatalog:
            DatasetCatalog.remove(name)
            MetadataCatalog.remove(name)


@pytest.fixture
def make_cfg(folder, write, tmp_path):
    """A whole config around ``custom.py`` for two contents."""

    def make(train=None, val=None, *, num_classes=80, num_queries=300, **data) -> DictConfig:
        cfg = OmegaConf.create({"model": {"num_classes": num_classes}, "train": {"output_dir": str(tmp_path / "run")}})
        OmegaConf.update(cfg, "model.transformer.queries.groups.one2one", num_queries, force_add=True)
        cfg.dataloader = LazyConfig.load(str(DATA_CONFIGS / "custom.py")).dataloader
        train_json = write(train or coco_content(), "train.json")
        val_json = write(val or coco_content(seed=1), "val.json")
        paths = {"image_root": str(folder), "train_json": train_json, "val_json": val_json}
        cfg.dataloader.data.update({"name": NAME, **paths, **data})
        return cfg

    return make


def with_ids(content, ids, *, first_annotation=1, shuffled=False):
    """The same data under other category ids."""
    content = copy.deepcopy(content)
    old = [c["id"] for c in content["categories"]]
    mapping = dict(zip(old, ids, strict=True))
    for category in content["categories"]:
        category["id"] = mapping[category["id"]]
    for i, annotation in enumerate(content["annotations"]):
        annotation["category_id"] = mapping[annotation["category_id"]]
        annotation["id"] = i + first_annotation
    if shuffled:
        content["categories"].reverse()
    return content


def perturbed_predictions(name, *, noise):
    """One prediction per object of a registered set, with a seeded error, in contiguous class ids."""
    generator = torch.Generator().manual_seed(0)
    for record in DatasetCatalog.get(name):
        boxes = torch.tensor([a["bbox"] for a in record["annotations"]]).reshape(-1, 4)
        boxes = torch.cat([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1)
        instances = Instances(SIZE)
        instances.pred_boxes = Boxes(boxes + noise * torch.randn(boxes.shape, generator=generator))
        instances.scores = torch.rand(len(boxes), generator=generator)
        instances.pred_classes = torch.tensor([a["category_id"] for a in record["annotations"]])
        yield {"image_id": record["image_id"]}, {"instances": instances}


def evaluate(cfg, *, noise=1.5):
    evaluator = instantiate(cfg.dataloader.evaluator)
    evaluator.reset()
    for sample, output in perturbed_predictions(f"{NAME}_val", noise=noise):
        evaluator.process([sample], [output])
    return evaluator.evaluate()["bbox"]


def test_info_and_num_classes(make_cfg):
    cfg = make_cfg()
    info = prepare_data(cfg)
    assert info.train_name == f"{NAME}_train"
    assert info.test_name == f"{NAME}_val"
    assert info.class_names == ("cat", "dog", "bird")
    assert info.num_train_images == 4
    assert cfg.model.num_classes == 3
    assert prepare_data(cfg) == info  # again, as after loading the saved config
    records = get_detection_dataset_dicts(cfg.dataloader.train.dataset.names, filter_empty=False)
    assert len(records) == 4


def test_every_id_scheme_gives_the_same_ap(make_cfg):
    schemes = {
        "1-based": with_ids(coco_content(seed=1), (1, 2, 3)),
        "0-based": with_ids(coco_content(seed=1), (0, 1, 2)),
        "sparse": with_ids(coco_content(seed=1), (7, 40, 1000)),
        "unordered": with_ids(coco_content(seed=1), (3, 5, 8), shuffled=True),
        "annotations from 0": with_ids(coco_content(seed=1), (1, 2, 3), first_annotation=0),
    }
    results = {}
    for name, val in schemes.items():
        ids = sorted(c["id"] for c in val["categories"])
        cfg = make_cfg(with_ids(coco_content(), ids), val)
        info = prepare_data(cfg)
        assert info.class_names == ("cat", "dog", "bird")
        results[name] = evaluate(cfg)
    assert 5 < results["1-based"]["AP"] < 95
    for name, result in results.items():
        assert result == pytest.approx(results["1-based"], abs=0, nan_ok=True), name


def test_perfect_predictions_reach_100(make_cfg):
    cfg = make_cfg(val=with_ids(coco_content(seed=1), (1, 2, 3), first_annotation=0))
    prepare_data(cfg)
    assert evaluate(cfg, noise=0)["AP"] == pytest.approx(100)


def test_degenerate_ground_truth_costs_no_ap(make_cfg, caplog):
    val = coco_content(seed=1)
    flat = {"id": 99, "image_id": 1, "category_id": 1, "bbox": [1, 1, 0, 5], "area": 0, "iscrowd": 0}
    val["annotations"].append(flat)
    cfg = make_cfg(val=val)
    with caplog.at_level(logging.INFO):
        prepare_data(cfg)
    assert "box-without-area x 1" in caplog.text
    assert "repaired copy" in caplog.text
    assert evaluate(cfg, noise=0)["AP"] == pytest.approx(100)


def test_evaluator_built_before_the_data_was_read(folder, write):
    """Real detectron2 gives AP 0 here, without a message."""
    from detectron2.data.datasets import register_coco_instances

    path = write(with_ids(coco_content(seed=1), (5, 6, 9)), "val.json")
    register_coco_instances(f"{NAME}_val", {}, path, str(folder))
    evaluator = build_coco_evaluator(dataset_name=f"{NAME}_val")
    evaluator.reset()
    for sample, output in perturbed_predictions(f"{NAME}_val", noise=0):
        evaluator.process([sample], [output])
    assert evaluator.evaluate()["bbox"]["AP"] == pytest.approx(100)


def test_conflicting_num_classes(make_cfg):
    with pytest.raises(DatasetError, match=r"model\.num_classes=7, but .*val\.json defines 3 categories"):
        prepare_data(make_cfg(num_classes=7))
    for fine in (None, 3, 80):
        cfg = make_cfg(num_classes=fine)
        prepare_data(cfg)
        assert cfg.model.num_classes == 3


def test_different_categories_of_train_and_val(make_cfg):
    val = coco_content(seed=1)
    val["categories"][0]["name"] = "lion"
    with pytest.raises(DatasetError, match=r"only in the first: \['cat'\]; only in the second: \['lion'\]"):
        prepare_data(make_cfg(val=val))
    swapped = with_ids(coco_content(seed=1), (2, 1, 3))
    with pytest.raises(DatasetError, match="the same names in another order"):
        prepare_data(make_cfg(val=swapped))


def test_missing_settings_and_files(make_cfg):
    for key in ("image_root", "train_json", "val_json"):
        with pytest.raises(DatasetError, match=rf"dataloader\.data\.{key}=PATH"):
            prepare_data(make_cfg(**{key: None}))
    with pytest.raises(DatasetError, match=r"absent\.json: no such file"):
        prepare_data(make_cfg(train_json="absent.json"))
    with pytest.raises(DatasetError, match=r"no file elsewhere/0\.png"):
        prepare_data(make_cfg(val_image_root="elsewhere"))


def test_evaluation_needs_no_training_data(make_cfg):
    cfg = make_cfg(train_json="absent.json")
    info = prepare_data(cfg, train=False)
    assert info.num_train_images is None
    assert info.class_names == ("cat", "dog", "bird")
    assert cfg.model.num_classes == 3


def test_another_data_set_under_the_same_name(make_cfg):
    prepare_data(make_cfg())
    other = coco_content(seed=1)
    for category, name in zip(other["categories"], "abc", strict=True):
        category["name"] = name
    assert prepare_data(make_cfg(other, other)).class_names == ("a", "b", "c")
    assert MetadataCatalog.get(f"{NAME}_val").thing_classes == ["a", "b", "c"]


def test_warnings(make_cfg, caplog):
    train = coco_content()
    train["annotations"] = [a for a in train["annotations"] if a["category_id"] != 3]
    train["annotations"] = [a for a in train["annotations"] if a["image_id"] != 1]
    cfg = make_cfg(train, num_queries=2)
    cfg.dataloader.evaluator.max_dets_per_image = 2
    with caplog.at_level(logging.INFO):
        prepare_data(cfg)
    assert "no boxes of 'bird'" in caplog.text
    assert "image-without-boxes x 1" in caplog.text
    assert "the model has 2 queries" in caplog.text
    assert "raise dataloader.evaluator.max_dets_per_image" in caplog.text


def test_images_in_both_splits(make_cfg, caplog):
    prepare_data(make_cfg())
    assert "4 images are in the training and in the validation split" in caplog.text


def test_registered_names(make_cfg, monkeypatch, folder):
    cfg = make_cfg()
    prepare_data(cfg)
    del cfg.dataloader.data
    cfg.dataloader.train.dataset.names, cfg.dataloader.test.dataset.names = f"{NAME}_train", [f"{NAME}_val"]
    info = prepare_data(cfg)
    assert info.num_train_images == 4
    assert info.class_names == ("cat", "dog", "bird")
    cfg.model.num_classes = 2
    with pytest.raises(DatasetError, match="has 3 classes"):
        prepare_data(cfg)
    cfg.dataloader.train.dataset.names = "no_such_set"
    with pytest.raises(DatasetError, match="'no_such_set' is not registered"):
        prepare_data(cfg)


def test_builtin_coco_without_files_says_what_to_set(monkeypatch):
    for name in ("coco_2017_train", "coco_2017_val"):
        assert name in DatasetCatalog
        monkeypatch.setitem(MetadataCatalog.get(name).__dict__, "json_file", "absent.json")
    cfg = LazyConfig.load(str(DATA_CONFIGS / "coco_detr.py"))
    with pytest.raises(DatasetError, match="DETECTRON2_DATASETS"):
        prepare_data(cfg)


def test_images_of_builtin_coco_are_counted_without_parsing(folder, write, monkeypatch):
    path = write(coco_content(), "train.json")
    for name in ("coco_2017_train", "coco_2017_val"):
        metadata = MetadataCatalog.get(name)
        monkeypatch.setitem(metadata.__dict__, "json_file", path)
    cfg = LazyConfig.load(str(DATA_CONFIGS / "coco_detr.py"))
    assert prepare_data(cfg).num_train_images == 4
