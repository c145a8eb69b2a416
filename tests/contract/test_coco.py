"""Reading and writing COCO files."""

from __future__ import annotations

import itertools
import json
import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_sem_seg, register_coco_instances
from detectron2.data.datasets.coco import convert_to_coco_dict, convert_to_coco_json, load_coco_json
from detectron2.structures import BoxMode
from PIL import Image

from .conftest import lite_only

_numbers = itertools.count()
SQUARE = [10.0, 10.0, 30.0, 10.0, 30.0, 30.0, 10.0, 30.0]


def _annotation(**changes) -> dict:
    base = {"id": next(_numbers), "image_id": 5, "category_id": 7, "bbox": [10, 10, 20, 20], "iscrowd": 0, "area": 400}
    return base | {"segmentation": [SQUARE]} | changes


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., tuple[str, str]]:
    """Write a COCO file; returns its path and a data set name of its own."""

    def write_(annotations: list[dict] | None, categories=((9, "dog"), (7, "cat"))) -> tuple[str, str]:
        images = [{"id": i, "height": 40, "width": 50, "file_name": f"{i}.jpg"} for i in (8, 5)]
        content = {"images": images, "categories": [{"id": i, "name": n} for i, n in categories], "info": {}}
        if annotations is not None:
            content["annotations"] = annotations
        path = tmp_path / f"{next(_numbers)}.json"
        path.write_text(json.dumps(content))
        name = f"contract_{next(_numbers)}"
        created.append(name)
        return str(path), name

    created: list[str] = []
    yield write_
    for name in created:
        DatasetCatalog.pop(name, None)
        MetadataCatalog.pop(name, None)


def test_reading_is_lazy_and_maps_ids(write) -> None:
    path, name = write([_annotation(category_id=9), _annotation()])
    register_coco_instances(name, {"colour": "red"}, path, "images")
    metadata = MetadataCatalog.get(name)
    assert (metadata.json_file, metadata.image_root, metadata.colour) == (path, "images", "red")
    assert metadata.evaluator_type == "coco"
    assert not hasattr(metadata, "thing_classes")
    first, second = DatasetCatalog.get(name)
    assert metadata.thing_classes == ["cat", "dog"]
    assert metadata.thing_dataset_id_to_contiguous_id == {7: 0, 9: 1}
    assert (first["image_id"], first["height"], first["width"]) == (5, 40, 50)
    assert Path(first["file_name"]) == Path("images/5.jpg")
    assert [a["category_id"] for a in first["annotations"]] == [1, 0]
    assert first["annotations"][0]["bbox_mode"] == BoxMode.XYWH_ABS
    assert first["annotations"][0]["segmentation"] == [SQUARE]
    assert second["annotations"] == []


def test_ids_stay_without_a_name(write) -> None:
    path, _ = write([_annotation(score=0.5)])
    (annotation,) = load_coco_json(path, "", extra_annotation_keys=["score"])[0]["annotations"]
    assert annotation["category_id"] == 7
    assert annotation["score"] == 0.5
    assert "area" not in annotation


def test_a_warning_about_unusual_ids(write, d2_log) -> None:
    path, name = write([])
    load_coco_json(path, "", name)
    assert any("ategory ids" in r.message for r in d2_log.records if r.levelno == logging.WARNING)


def test_segmentations(write) -> None:
    rle = {"size": [40, 50], "counts": [100, 20, 1880]}
    path, name = write(
        [
            _annotation(segmentation=[SQUARE, [1, 2, 3, 4]]),
            _annotation(segmentation=[[1, 2, 3, 4], [1, 2, 3, 4, 5, 6, 7]]),
            _annotation(segmentation=rle, iscrowd=1),
            _annotation(segmentation=[]),
        ]
    )
    polygons, crowd, empty = load_coco_json(path, "", name)[0]["annotations"]
    assert polygons["segmentation"] == [SQUARE]
    assert crowd["segmentation"]["size"] == [40, 50]
    assert isinstance(crowd["segmentation"]["counts"], bytes)
    assert "segmentation" not in empty


def test_keypoints_become_coordinates(write) -> None:
    path, name = write([_annotation(keypoints=[3, 4, 2, 0, 0, 0]), _annotation(keypoints=[])])
    first, second = load_coco_json(path, "", name)[0]["annotations"]
    assert first["keypoints"] == [3.5, 4.5, 2, 0.5, 0.5, 0]
    assert not second.get("keypoints")


def test_a_file_without_annotations(write) -> None:
    path, name = write(None)
    assert [d["annotations"] for d in load_coco_json(path, "", name)] == [[], []]


@pytest.mark.parametrize(
    ("annotations", "error"),
    [
        ([_annotation(id=1), _annotation(id=1)], AssertionError),
        ([_annotation(ignore=1)], AssertionError),
        ([_annotation(category_id=3)], KeyError),
        ([_annotation(bbox=[])], ValueError),
    ],
)
def test_bad_annotations(write, annotations, error) -> None:
    path, name = write(annotations)
    with pytest.raises(error):
        load_coco_json(path, "", name)


def test_annotations_of_unknown_images(write, d2_log) -> None:
    path, name = write([_annotation(image_id=77), _annotation()])
    assert sum(len(d["annotations"]) for d in load_coco_json(path, "", name)) == 1
    assert any("annotations" in r.message for r in d2_log.records if r.levelno == logging.WARNING)


@lite_only("min() arg is an empty sequence")
def test_a_file_without_categories(write) -> None:
    path, name = write([], categories=())
    with pytest.raises(ValueError, match=r"json defines no categories"):
        load_coco_json(path, "", name)


def _records() -> list[dict]:
    box = {"bbox": [10.0, 10.0, 30.0, 20.0], "bbox_mode": BoxMode.XYXY_ABS, "category_id": 1}
    polygons = box | {"category_id": 0, "segmentation": [SQUARE], "iscrowd": 0}
    array = box | {"bbox": np.array([1.0, 2.0, 3.0, 4.0]), "bbox_mode": BoxMode.XYWH_ABS, "keypoints": [3.5, 4.5, 2.0]}
    return [{"file_name": "a.jpg", "height": 40, "width": 50, "image_id": 3, "annotations": [box, polygons, array]}]


def test_writing(write, tmp_path) -> None:
    _, name = write([])
    DatasetCatalog.register(name, _records)
    MetadataCatalog.get(name).set(thing_classes=["cat", "dog"], thing_dataset_id_to_contiguous_id={7: 0, 9: 1})
    coco = convert_to_coco_dict(name)
    assert coco["categories"] == [{"id": 7, "name": "cat"}, {"id": 9, "name": "dog"}]
    assert coco["images"] == [{"id": 3, "height": 40, "width": 50, "file_name": "a.jpg"}]
    box, polygons, array = coco["annotations"]
    assert (box["id"], box["image_id"], box["category_id"], box["iscrowd"]) == (1, 3, 9, 0)
    assert (box["bbox"], box["area"]) == ([10, 10, 20, 10], 200)
    assert (polygons["segmentation"], polygons["area"]) == ([SQUARE], 400)
    assert (array["bbox"], array["keypoints"], array["num_keypoints"]) == ([1, 2, 3, 4], [3, 4, 2], 1)

    path = tmp_path / "out" / "coco.json"
    convert_to_coco_json(name, str(path))
    assert len(json.loads(path.read_text())["annotations"]) == 3
    path.write_text("{}")
    convert_to_coco_json(name, str(path))
    assert path.read_text() == "{}"  # kept
    convert_to_coco_json(name, str(path), allow_cached=False)
    assert "images" in json.loads(path.read_text())


@lite_only("conversion shifts the keypoints of the data set in place")
def test_writing_changes_nothing(write) -> None:
    _, name = write([])
    records = _records()
    DatasetCatalog.register(name, lambda: records)
    MetadataCatalog.get(name).thing_classes = ["cat", "dog"]
    convert_to_coco_dict(name)
    assert records[0]["annotations"][2]["keypoints"] == [3.5, 4.5, 2.0]


@pytest.mark.parametrize(
    ("change", "error"), [({"bbox": [1.0, 2.0, 3.0]}, ValueError), ({"segmentation": "?"}, TypeError)]
)
def test_writing_nonsense(write, change, error) -> None:
    _, name = write([])
    records = _records()
    records[0]["annotations"][0] |= change
    DatasetCatalog.register(name, lambda: records)
    MetadataCatalog.get(name).thing_classes = ["cat", "dog"]
    with pytest.raises(error):
        convert_to_coco_dict(name)


def test_semantic_labels(tmp_path) -> None:
    for folder, files in (("images", ["b.jpg", "a.jpg", "c.jpg"]), ("labels", ["a.png", "b.png"])):
        (tmp_path / folder).mkdir()
        for file in files:
            Image.new("L", (4, 4)).save(tmp_path / folder / file)
    records = load_sem_seg(str(tmp_path / "labels"), str(tmp_path / "images"))
    assert [(Path(r["file_name"]).name, Path(r["sem_seg_file_name"]).name) for r in records] == [
        ("a.jpg", "a.png"),
        ("b.jpg", "b.png"),
    ]
    with pytest.raises(AssertionError):
        load_sem_seg(str(tmp_path), str(tmp_path / "images"))
