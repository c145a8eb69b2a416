"""DatasetCatalog and MetadataCatalog."""

from __future__ import annotations

import copy
import pickle

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.catalog import Metadata


@pytest.fixture
def name():
    yield "contract_catalog"
    for catalog in (DatasetCatalog, MetadataCatalog):
        catalog.pop("contract_catalog", None)


def test_data_sets(name) -> None:
    calls = []
    DatasetCatalog.register(name, lambda: calls.append(1) or [{"file_name": "a"}])
    assert not calls
    assert name in DatasetCatalog
    assert name in DatasetCatalog.list()
    assert DatasetCatalog.get(name) == [{"file_name": "a"}]
    assert len(calls) == 1
    with pytest.raises(AssertionError, match=name):
        DatasetCatalog.register(name, list)
    DatasetCatalog.remove(name)
    assert name not in DatasetCatalog
    with pytest.raises(KeyError, match="coco_2017_val"):
        DatasetCatalog.get(name)
    with pytest.raises(AssertionError):
        DatasetCatalog.register(name, [])


def test_metadata(name) -> None:
    metadata = MetadataCatalog.get(name)
    assert metadata is MetadataCatalog.get(name)
    assert metadata.name == name
    assert metadata.set(thing_classes=["a"], x=1) is metadata
    metadata.thing_classes = ["a"]  # the same value again
    with pytest.raises(AssertionError, match="thing_classes"):
        metadata.thing_classes = ["b"]
    with pytest.raises(AttributeError, match=name):
        _ = metadata.stuff_classes
    assert metadata.get("stuff_classes") is None
    assert metadata.get("stuff_classes", 3) == 3
    assert not hasattr(metadata, "stuff_classes")
    values = metadata.as_dict()
    values["y"] = 2
    assert not hasattr(metadata, "y")
    assert name in MetadataCatalog.list()
    with pytest.raises(AssertionError):
        MetadataCatalog.get("")


def test_metadata_travels() -> None:
    metadata = Metadata(name="x", thing_classes=["a"])
    for other in (copy.deepcopy(metadata), pickle.loads(pickle.dumps(metadata))):
        assert other.thing_classes == ["a"]


@pytest.mark.parametrize(
    ("name", "json", "images"),
    [
        ("coco_2014_train", "instances_train2014", "train2014"),
        ("coco_2014_minival", "instances_minival2014", "val2014"),
        ("coco_2017_val", "instances_val2017", "val2017"),
        ("coco_2017_test-dev", "image_info_test-dev2017", "test2017"),
        ("coco_2017_val_100", "instances_val2017_100", "val2017"),
    ],
)
def test_standard_splits(name, json, images) -> None:
    assert name in DatasetCatalog
    metadata = MetadataCatalog.get(name)
    assert str(metadata.json_file).endswith(f"coco/annotations/{json}.json")
    assert str(metadata.image_root).endswith(f"coco/{images}")
    assert metadata.evaluator_type == "coco"
    assert (len(metadata.thing_classes), metadata.thing_classes[79]) == (80, "toothbrush")
    assert metadata.thing_dataset_id_to_contiguous_id[90] == 79
    assert metadata.thing_colors[0] == [220, 20, 60]


def test_categories() -> None:
    from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES

    assert len(COCO_CATEGORIES) == 133
    assert COCO_CATEGORIES[9] == {"color": [250, 170, 30], "isthing": 1, "id": 10, "name": "traffic light"}
    assert sum(category["isthing"] for category in COCO_CATEGORIES) == 80
    assert COCO_CATEGORIES[-1] == {"color": [250, 141, 255], "isthing": 0, "id": 200, "name": "rug-merged"}
