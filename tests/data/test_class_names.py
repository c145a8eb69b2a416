"""Classes of a checkpoint and of data, matched by name."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from coco_files import coco_content
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import Boxes, Instances
from hypothesis import given, settings
from hypothesis import strategies as st

from detrex.data import DatasetError, build_coco_evaluator, category_ids, read_coco_json, register_coco_data
from detrex.data.class_names import check_same_classes, follow_class_order, known_classes

NAME, TRAINED = "class_names_test", ("cat", "dog", "bird")


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    from PIL import Image

    folder = tmp_path_factory.mktemp("images")
    for i in range(4):
        Image.fromarray(np.full((60, 80, 3), 40 * i, np.uint8)).save(folder / f"{i}.png")
    yield folder
    DatasetCatalog.remove(NAME)
    MetadataCatalog.remove(NAME)


def register(folder, ids) -> None:
    """The data set with other category ids, and so with another order of classes."""
    content = coco_content()
    new_id = dict(zip((1, 2, 3), ids, strict=True))
    for item in (*content["annotations"], *content["categories"]):
        key = "category_id" if "category_id" in item else "id"
        item[key] = new_id[item[key]]
    (folder / "data.json").write_text(json.dumps(content))
    register_coco_data(NAME, read_coco_json(folder / "data.json", folder), image_root=str(folder))


def average_precision() -> dict[str, float]:
    """Of detections in the checkpoint's class ids: noisy copies of the objects, some of a wrong class."""
    evaluator = build_coco_evaluator(dataset_name=NAME)
    rng = np.random.default_rng(0)
    for item in coco_content()["images"]:
        objects = [a for a in coco_content()["annotations"] if a["image_id"] == item["id"]]
        boxes = np.array([a["bbox"] for a in objects])
        boxes[:, 2:] += boxes[:, :2]
        found = Instances((60, 80), pred_boxes=Boxes(torch.tensor(boxes + rng.normal(0, 1.5, boxes.shape))))
        found.scores = torch.tensor(rng.uniform(size=len(objects)))
        classes = [a["category_id"] - 1 if rng.uniform() < 0.7 else rng.integers(3) for a in objects]
        found.pred_classes = torch.tensor(classes)
        evaluator.process([{"image_id": item["id"]}], [{"instances": found}])
    return evaluator.evaluate()["bbox"]


@settings(deadline=None, max_examples=30)
@given(ids=st.permutations(range(7)).map(lambda ids: ids[:3]))
def test_the_ap_does_not_depend_on_the_order_of_the_classes(images, ids):
    register(images, (1, 2, 3))
    expected = average_precision()
    assert 10 < expected["AP"] < 90
    register(images, ids)
    follow_class_order([NAME], TRAINED, source="model.pth")
    assert known_classes(NAME) == TRAINED
    assert category_ids(NAME) == tuple(ids)
    names = {a["id"]: a["name"] for a in json.loads((images / "data.json").read_text())["categories"]}
    by_image = {r["image_id"]: r["annotations"] for r in DatasetCatalog.get(NAME)}
    for annotation in json.loads((images / "data.json").read_text())["annotations"]:
        (ours,) = [a for a in by_image[annotation["image_id"]] if a["bbox"] == annotation["bbox"]]
        assert TRAINED[ours["category_id"]] == names[annotation["category_id"]]
    assert average_precision() == pytest.approx(expected, rel=0, abs=0, nan_ok=True)


@given(
    trained=st.lists(st.sampled_from("abcdé猫"), min_size=1, max_size=5),
    data=st.lists(st.sampled_from("abcdé猫"), min_size=1, max_size=5),
)
def test_any_two_lists_are_the_same_or_matched_by_name_or_refused(trained, data):
    unique = len(set(data)) == len(data)
    if trained == data or (sorted(trained) == sorted(data) and unique):
        check_same_classes(trained, data, source="model.pth", dataset_name="set")
    else:
        with pytest.raises(DatasetError, match=r"model\.pth"):
            check_same_classes(trained, data, source="model.pth", dataset_name="set")


def test_the_message_names_both_lists_and_the_difference():
    with pytest.raises(DatasetError) as caught:
        check_same_classes(TRAINED, ("cat", "fox\x1b[2J", "dog"), source="model.pth", dataset_name="zoo_val")
    assert str(caught.value) == (
        "model.pth has other classes than zoo_val: only in the checkpoint: bird; only in the data: "
        r"fox\x1b[2J; checkpoint: cat, dog, bird; data: cat, fox\x1b[2J, dog. Use data of its classes, or "
        "fine-tune: start a new run with train.init_checkpoint"
    )
    with pytest.raises(DatasetError, match=r"repeats class names \(cat\) .* another order"):
        check_same_classes(("cat", "dog", "cat"), ("cat", "cat", "dog"), source="m.pth", dataset_name="zoo_val")


def test_a_checkpoint_without_names_is_taken_by_position_and_says_so(images, caplog):
    register(images, (3, 2, 1))
    with caplog.at_level("INFO"):
        follow_class_order([NAME], (), source="model.pth")
    assert known_classes(NAME) == ("bird", "dog", "cat")
    assert [r.message for r in caplog.records] == [
        "model.pth holds no class names: its classes are taken in the order of the data's"
    ]
