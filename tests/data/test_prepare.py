from __future__ import annotations

import copy
import json
import logging
import os
from importlib.metadata import version

import pytest
import torch
from coco_files import DATA_CONFIGS, SIZE, coco_content
from detectron2.config import LazyConfig, instantiate
from detectron2.data import DatasetCatalog, MetadataCatalog, get_detection_dataset_dicts
from detectron2.data.datasets import register_coco_instances
from detectron2.structures import Boxes, Instances
from omegaconf import DictConfig, OmegaConf

from detrex.data import DatasetError, build_coco_evaluator, category_ids, ground_truth, prepare_data
from detrex.data.evaluation import METRICS, RESULTS
from detrex.engine.evaluation import evaluate as run_evaluation

NAME = "prepare_test"


@pytest.fixture(autouse=True)
def _clean_catalogs():
    yield
    for name in (f"{NAME}_{split}" for split in ("train", "val", "test")):
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
    assert "4 images are trained on and evaluated, for example" in caplog.text


@pytest.fixture
def registered(folder, write, tmp_path):
    """A config around data sets that detectron2's own function has registered, as its tutorial has it."""

    def make(train=None, val=None, *, num_classes=80) -> DictConfig:
        for split, content in {"train": train or coco_content(), "val": val or coco_content(seed=1)}.items():
            register_coco_instances(f"{NAME}_{split}", {}, write(content, f"{split}.json"), str(folder))
        cfg = OmegaConf.create({"model": {"num_classes": num_classes}, "train": {"output_dir": str(tmp_path / "run")}})
        cfg.dataloader = LazyConfig.load(str(DATA_CONFIGS / "coco_detr.py")).dataloader
        cfg.dataloader.train.dataset.names, cfg.dataloader.test.dataset.names = f"{NAME}_train", f"{NAME}_val"
        return cfg

    return make


def test_registered_data_decide_the_number_of_classes(registered):
    """A config with 80 classes used to train on three, and to die at its first evaluation."""
    cfg = registered()
    info = prepare_data(cfg)
    assert info.num_train_images == 4
    assert info.class_names == ("cat", "dog", "bird")
    assert cfg.model.num_classes == 3
    assert evaluate(cfg, noise=0)["AP"] == pytest.approx(100)
    cfg.dataloader.test.dataset.names = [f"{NAME}_val"]
    assert prepare_data(cfg) == info
    del cfg.model.num_classes  # of a model that has no such argument
    assert prepare_data(cfg) == info
    assert "num_classes" not in cfg.model


@pytest.mark.parametrize("num_classes", [2, 4, 81])
@pytest.mark.parametrize("train", [True, False])
def test_registered_data_of_another_number_of_classes_are_refused(registered, num_classes, train):
    with pytest.raises(DatasetError, match=rf"num_classes={num_classes}, but .* 3 categories \(cat, dog, bird\)"):
        prepare_data(registered(num_classes=num_classes), train=train)


def test_registered_classes_are_matched_by_name(registered):
    swapped = coco_content(seed=1)
    swapped["categories"] = [{"id": i, "name": name} for i, name in enumerate(("dog", "bird", "cat"))]
    new_id = {1: 2, 2: 0, 3: 1}
    for annotation in swapped["annotations"]:
        annotation["category_id"] = new_id[annotation["category_id"]]
    cfg = registered(val=swapped)
    assert sorted(prepare_data(cfg).class_names) == ["bird", "cat", "dog"]
    train, val = (MetadataCatalog.get(f"{NAME}_{split}").thing_classes for split in ("train", "val"))
    assert train == val
    assert evaluate(cfg, noise=0)["AP"] == pytest.approx(100)
    for record, original in zip(DatasetCatalog.get(f"{NAME}_train"), coco_content()["images"], strict=True):
        names = [a["category_id"] for a in coco_content()["annotations"] if a["image_id"] == original["id"]]
        assert [train[a["category_id"]] for a in record["annotations"]] == [
            ("cat", "dog", "bird")[n - 1] for n in names
        ]


def test_registered_data_of_other_classes_are_refused(registered):
    other = coco_content(seed=1)
    other["categories"][0]["name"] = "lion"
    with pytest.raises(DatasetError, match=rf"only in the data set '{NAME}_train': cat; only in the data: lion"):
        prepare_data(registered(val=other))


@pytest.mark.parametrize(
    ("metadata", "class_id"),
    [({"thing_classes": ["a", "b"]}, 2), ({"thing_classes": ["a", "b"]}, -1),
     ({"thing_classes": ["a", "b"], "thing_dataset_id_to_contiguous_id": {7: 0}}, 0),
     ({"thing_classes": ["a", "b"], "thing_dataset_id_to_contiguous_id": {7: 0, 8: 1, 9: 2}}, 0)],
    ids=["too large", "negative", "fewer ids", "more ids"],
)  # fmt: skip
def test_class_ids_that_contradict_the_names_are_refused(registered, metadata, class_id):
    cfg = registered()
    record = {**DatasetCatalog.get(f"{NAME}_val")[0], "annotations": [{"category_id": class_id}]}
    for split in ("train", "val"):
        DatasetCatalog.remove(f"{NAME}_{split}")
        MetadataCatalog.remove(f"{NAME}_{split}")
        DatasetCatalog.register(f"{NAME}_{split}", lambda: [record])
        MetadataCatalog.get(f"{NAME}_{split}").set(**metadata)
    with pytest.raises(DatasetError, match=r"has 2 classes \(a, b\), but the class ids \[.*\]: they must be 0 to 1"):
        prepare_data(cfg)


def test_a_json_that_vanishes_during_the_run_changes_nothing(make_cfg, tmp_path):
    cfg = make_cfg()
    prepare_data(cfg)
    before = evaluate(cfg)
    for path in (*tmp_path.rglob("*.json"), *tmp_path.rglob("*.png")):
        path.unlink()
    assert evaluate(cfg) == pytest.approx(before, abs=0, nan_ok=True)


def test_a_registered_json_that_vanishes_is_named_in_a_line(registered):
    cfg = registered()
    prepare_data(cfg)
    os.remove(MetadataCatalog.get(f"{NAME}_val").json_file)
    with pytest.raises(DatasetError, match=r"the evaluation cannot start: .*val\.json"):
        run_evaluation(cfg, torch.nn.Identity())
    with pytest.raises(DatasetError, match=r"val\.json: no such file"):
        ground_truth(f"{NAME}_val")


def with_byte_order_mark(path) -> None:
    with open(path, encoding="utf-8") as f:
        text = f.read()
    with open(path, "w", encoding="utf-8-sig") as f:
        f.write(text)


def test_a_json_with_a_byte_order_mark_is_evaluated(make_cfg):
    """The check read it, and the first evaluation died."""
    cfg = make_cfg()
    for split in ("train", "val"):
        with_byte_order_mark(cfg.dataloader.data[f"{split}_json"])
    prepare_data(cfg)
    assert evaluate(cfg, noise=0)["AP"] == pytest.approx(100)


def test_a_registered_json_with_a_byte_order_mark(registered):
    """detectron2_lite reads it, detectron2 does not; the evaluator follows either."""
    cfg = registered()
    with_byte_order_mark(MetadataCatalog.get(f"{NAME}_val").json_file)
    if "lite" in version("detectron2"):
        prepare_data(cfg)
        assert evaluate(cfg, noise=0)["AP"] == pytest.approx(100)
    else:
        with pytest.raises(DatasetError, match=r"val\.json: detectron2 cannot read .* byte|BOM"):
            prepare_data(cfg)


def test_a_registered_json_that_is_damaged_is_named(registered, tmp_path):
    cfg = registered()
    path = MetadataCatalog.get(f"{NAME}_val").json_file
    with open(path, "w") as f:
        f.write("[{")
    with pytest.raises(DatasetError, match=r"val\.json: detectron2 cannot read the data set"):
        prepare_data(cfg)


def test_unknown_names(registered):
    cfg = registered()
    cfg.dataloader.train.dataset.names = "no_such_set"
    with pytest.raises(DatasetError, match="'no_such_set' is not registered"):
        prepare_data(cfg)


# ------------------------------------------------------------------------------------------------ switches
@pytest.fixture
def three_splits(make_cfg, folder, write):
    """A config of a folder with train, val and test; another number of images in each."""

    def make(test=None, **data) -> DictConfig:
        (folder / "annotations").mkdir(exist_ok=True)
        write(coco_content(), "annotations/train.json")
        write(without_images(coco_content(seed=1), 3), "annotations/val.json")
        write(test or without_images(coco_content(seed=2), 2), "annotations/test.json")
        paths = dict.fromkeys(("image_root", "train_json", "val_json"))
        return make_cfg(**{**paths, "root": str(folder), **data})

    return make


def without_images(content: dict, kept: int) -> dict:
    content["images"] = content["images"][:kept]
    ids = {image["id"] for image in content["images"]}
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] in ids]
    return content


def splits_of(names) -> int:
    return len(get_detection_dataset_dicts(names, filter_empty=False))


def test_the_test_split_is_evaluated_by_one_override(three_splits):
    cfg = three_splits(eval_split="test")
    for train in (False, True):
        info = prepare_data(cfg, train=train)
        assert info.test_name == cfg.dataloader.evaluator.dataset_name == f"{NAME}_test"
        assert splits_of(cfg.dataloader.test.dataset.names) == 2
        assert cfg.model.num_classes == 3
    assert info.num_train_images == splits_of(cfg.dataloader.train.dataset.names) == 4
    cfg.dataloader.data.eval_split = "val"  # of a config that was saved with the other value
    assert prepare_data(cfg).test_name == cfg.dataloader.test.dataset.names == f"{NAME}_val"


def test_a_test_split_without_annotations_gives_results_and_no_ap(three_splits, tmp_path):
    test = without_images(coco_content(seed=2), 2)
    del test["annotations"]
    cfg = three_splits(test, eval_split="test")
    prepare_data(cfg, train=False)
    cfg.dataloader.evaluator.output_dir = str(tmp_path / "out")
    evaluator = instantiate(cfg.dataloader.evaluator)
    evaluator.reset()
    for record in DatasetCatalog.get(f"{NAME}_test"):
        found = Instances(SIZE, pred_boxes=Boxes(torch.tensor([[1.0, 2.0, 31.0, 42.0]])))
        found.scores, found.pred_classes = torch.tensor([0.5]), torch.tensor([1])
        evaluator.process([record], [{"instances": found}])
    assert evaluator.evaluate() == {}
    results = json.loads((tmp_path / "out" / RESULTS).read_text())
    assert [(r["image_id"], r["category_id"], r["bbox"]) for r in results] == [(i, 2, [1, 2, 30, 40]) for i in (1, 2)]
    assert not (tmp_path / "out" / METRICS).exists()


def test_no_validation_split_is_made_where_none_is_used(three_splits, folder, tmp_path):
    cfg = three_splits(eval_split="test")
    (folder / "annotations" / "val.json").unlink()
    assert prepare_data(cfg).num_train_images == 4
    assert not list(tmp_path.rglob("split.json"))
    (folder / "annotations" / "train.json").unlink()
    assert prepare_data(cfg, train=False).test_name == f"{NAME}_test"
    with pytest.raises(DatasetError, match=r"train_splits names train, but .* has only test"):
        prepare_data(cfg)


def test_training_on_train_and_val_together(three_splits, caplog):
    cfg = three_splits(train_splits=["train", "val"], eval_split="test")
    info = prepare_data(cfg)
    assert info.num_train_images == splits_of(cfg.dataloader.train.dataset.names) == 7
    assert prepare_data(cfg) == info
    cfg.dataloader.data.train_splits = "val"
    assert prepare_data(cfg).num_train_images == splits_of(cfg.dataloader.train.dataset.names) == 3
    cfg.dataloader.data.update({"train_splits": ["val"], "eval_split": "val"})
    prepare_data(cfg)
    assert "3 images are trained on and evaluated" in caplog.text


def test_data_sets_of_the_config_itself_are_left_alone(three_splits):
    cfg = three_splits(train_splits=["train", "val"])
    cfg.dataloader.train.dataset.names = [f"{NAME}_train", "one_more"]
    prepare_data(cfg)
    assert cfg.dataloader.train.dataset.names == [f"{NAME}_train", "one_more"]


@pytest.mark.parametrize(
    ("data", "message"),
    [({"eval_split": "testing"}, r"eval_split=testing: give train or val or test"),
     ({"eval_split": ["val", "test"]}, "one split can be evaluated"),
     ({"train_splits": ["train", "train"]}, r"train_splits=\['train', 'train'\]: give"),
     ({"train_splits": ["all"]}, "give train or val or test")],
    ids=str,
)  # fmt: skip
def test_splits_that_cannot_be(three_splits, data, message):
    with pytest.raises(DatasetError, match=message):
        prepare_data(three_splits(**data))


def test_a_split_that_is_not_there(make_cfg):
    with pytest.raises(DatasetError, match=r"eval_split names test, but .* has only train, val"):
        prepare_data(make_cfg(eval_split="test"))


def test_a_test_split_of_other_classes_is_refused(three_splits):
    other = coco_content(seed=2)
    other["categories"][0]["name"] = "lion"
    prepare_data(three_splits(other))  # not looked at
    with pytest.raises(DatasetError, match=r"only in the first: \['cat'\]; only in the second: \['lion'\]"):
        prepare_data(three_splits(other, eval_split="test"))


def test_an_order_of_ones_own_of_the_classes(make_cfg):
    order = ["bird", "cat", "dog"]
    cfg, plain = make_cfg(class_names=order), make_cfg()
    assert prepare_data(cfg).class_names == tuple(order)
    assert category_ids(f"{NAME}_val") == (3, 1, 2)
    assert MetadataCatalog.get(f"{NAME}_train").thing_classes == order
    ours, records = evaluate(cfg), DatasetCatalog.get(f"{NAME}_train")
    prepare_data(plain)
    for record, other in zip(records, DatasetCatalog.get(f"{NAME}_train"), strict=True):
        names = [("cat", "dog", "bird")[a["category_id"]] for a in other["annotations"]]
        assert [order[a["category_id"]] for a in record["annotations"]] == names
    assert ours == pytest.approx(evaluate(plain), abs=0, nan_ok=True)


def test_class_names_that_the_data_do_not_have(make_cfg):
    with pytest.raises(DatasetError, match=r"class_names must be .*; only in the list: lion; only in the data: bird"):
        prepare_data(make_cfg(class_names=["cat", "dog", "lion"]))


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
