"""What a detector says of an image, in the forms in which people use it."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes
from PIL import Image

from detrex.inference.detections import Detections


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
        "category_id": 9,
        "category_name": "green",
    }
    assert found.to_coco(image_id=5)[:2] == [
        {"image_id": 5, "category_id": 9, "bbox": [1.0, 2.0, 10.0, 20.0], "score": 0.75},
        {"image_id": 5, "category_id": 4, "bbox": [3.0, 4.0, 5.0, 5.0], "score": 0.5},
    ]
    assert [entry["category_id"] for entry in found.to_coco()] == [9, 4, 7]
    assert [record["category_id"] for record in found.to_records()] == [9, 4, 7]


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
