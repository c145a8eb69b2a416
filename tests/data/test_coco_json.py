from __future__ import annotations

import copy
import json

import pytest

from detrex.data import DatasetError, degenerate_reason, read_coco_json, write_coco_json


def test_clean_file(content, folder, write):
    data = read_coco_json(write(content), folder)
    assert data.class_names == ("cat", "dog", "bird")
    assert data.category_ids == (1, 2, 3)
    assert [r["image_id"] for r in data.records] == [1, 2, 3, 4]
    assert [len(r["annotations"]) for r in data.records] == [2, 3, 2, 3]
    assert data.max_objects == 3
    assert sum(data.count_per_class()) == 10
    assert not data.repairs
    assert not data.dropped


def _duplicate_image(c):
    c["images"][1]["id"] = 1
    return ["images[1]", "duplicate image id 1", "0.png", "1.png"]


def _duplicate_category(c):
    c["categories"][2]["id"] = 2
    return ["duplicate category id 2", "dog", "bird"]


def _repeated_name(c):
    c["categories"][2]["name"] = "cat"
    return ["'cat'", "two categories"]


def _unknown_category(c):
    c["annotations"][3]["category_id"] = 17
    return ["annotations[3]", "unknown category id 17", "1, 2, 3"]


def _text_category(c):
    c["annotations"][0]["category_id"] = "one"
    return ["annotations[0]", "unknown category id 'one'"]


def _true_is_not_one(c):
    c["annotations"][0]["category_id"] = True
    return ["unknown category id True"]


def _unknown_image(c):
    c["annotations"][4]["image_id"] = 99
    return ["annotations[4]", "unknown image id 99"]


def _unhashable_image(c):
    c["annotations"][4]["image_id"] = [1]
    return ["annotations[4]", "unknown image id [1]"]


def _short_box(c):
    c["annotations"][2]["bbox"] = [1, 2, 3]
    return ["annotations[2]", "[1, 2, 3]", "[x, y, width, height]"]


def _no_box(c):
    del c["annotations"][2]["bbox"]
    return ["annotations[2]", "None"]


def _missing_file(c):
    c["images"][2]["file_name"] = "nowhere/x.png"
    return ["images[2]", "image 3", "nowhere/x.png", "image_root"]


def _no_size(c):
    c["images"][2]["width"] = None
    return ["images[2]", "image 3", "height, width = (60, None)"]


def _no_name(c):
    del c["images"][0]["file_name"]
    return ["image 1 has no file_name"]


def _no_images(c):
    c["images"] = []
    return ['"images" is empty']


def _no_annotations_key(c):
    del c["annotations"]
    return ['no list "annotations"']


def _not_an_object(c):
    c["annotations"][1] = 5
    return ["annotations[1] is not an object"]


@pytest.mark.parametrize(
    "damage",
    [
        _duplicate_image, _duplicate_category, _repeated_name, _unknown_category, _text_category, _true_is_not_one,
        _unknown_image, _unhashable_image, _short_box, _no_box, _missing_file, _no_size, _no_name, _no_images,
        _no_annotations_key, _not_an_object,
    ],
)  # fmt: skip
def test_each_damage_is_named(damage, content, folder, write):
    expected = damage(content)
    path = write(content)
    with pytest.raises(DatasetError) as error:
        read_coco_json(path, folder)
    for text in (path, *expected):
        assert text in str(error.value)


def test_missing_and_broken_files(folder, write):
    with pytest.raises(DatasetError, match=r"nothing\.json: no such file"):
        read_coco_json(folder / "nothing.json", folder)
    with pytest.raises(DatasetError, match="cannot be read as json"):
        read_coco_json(write('{"images": ['), folder)
    with pytest.raises(DatasetError, match='no list "images"'):
        read_coco_json(write([1, 2]), folder)


def test_many_problems_are_counted(content, folder, write):
    for annotation in content["annotations"]:
        annotation["category_id"] = 40
    content["annotations"] *= 2
    with pytest.raises(DatasetError) as error:
        read_coco_json(write(content), folder)
    assert "20 problems" in str(error.value)
    assert "and 10 more" in str(error.value)


@pytest.mark.parametrize(
    ("bbox", "reason"),
    [
        ([5, 5, 0, 10], "zero or negative size"),
        ([5, 5, 10, -3], "zero or negative size"),
        ([float("nan"), 5, 10, 10], "not finite"),
        ([5, 5, float("inf"), 10], "not finite"),
        ([80, 5, 10, 10], "outside the image"),
        ([5, -20, 10, 20], "outside the image"),
        ([-5, -5, 10, 10], None),
        ([79, 59, 10, 10], None),
    ],
)
def test_degenerate_boxes_are_dropped_and_counted(bbox, reason, content, folder, write):
    assert degenerate_reason(bbox, 80, 60) == reason
    content["annotations"][0]["bbox"] = bbox
    data = read_coco_json(write(content), folder)
    assert dict(data.dropped) == ({reason: 1} if reason else {})
    assert len(data.records[0]["annotations"]) == (1 if reason else 2)
    assert bool(data.repairs) == bool(reason)


def test_rewritten_file_is_clean_and_equal(content, folder, write):
    damaged = copy.deepcopy(content)
    for i, annotation in enumerate(damaged["annotations"]):
        annotation["id"] = i  # from 0: pycocotools takes 0 for "unmatched"
        del annotation["area"], annotation["iscrowd"]
    data = read_coco_json(write(damaged), folder)
    assert data.repairs == (
        "annotation ids that are missing or not positive",
        "missing areas",
        "missing crowd flags",
    )
    target = folder / "out" / "clean.json"
    write_coco_json(data, target)
    again = read_coco_json(target, folder)
    assert not again.repairs
    assert again.records == data.records
    assert json.loads(target.read_text())["annotations"][0]["id"] == 1


def test_repeated_annotation_ids_are_repaired(content, folder, write):
    content["annotations"][1]["id"] = 1
    assert read_coco_json(write(content), folder).repairs == ("repeated annotation ids",)
