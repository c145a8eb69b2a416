"""Evaluators, the COCO evaluator in particular, and the loop that feeds them."""

from __future__ import annotations

import itertools
import json
import logging
import math
import time
from pathlib import Path

import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.evaluation import (
    COCOEvaluator,
    DatasetEvaluator,
    DatasetEvaluators,
    inference_context,
    inference_on_dataset,
    print_csv_format,
)
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from detectron2.evaluation.testing import flatten_results_dict
from detectron2.structures import Boxes, BoxMode, Instances

from .conftest import lite_only

BOXES = [[10, 10, 60, 60], [100, 20, 130, 120], [5, 150, 25, 165]]
CLASSES = [0, 1, 1]
_numbers = itertools.count()


@pytest.fixture
def data_set(tmp_path: Path):
    """Two images, three objects of two classes with category ids 4 and 9; not read yet."""

    def make(annotated: bool = True) -> str:
        content = {
            "info": {},
            "images": [{"id": i, "height": 200, "width": 200, "file_name": f"{i}.jpg"} for i in (1, 2)],
            "categories": [{"id": 9, "name": "dog"}, {"id": 4, "name": "cat"}],
        }
        if annotated:
            content["annotations"] = [
                {
                    "id": i + 1,
                    "image_id": 1,
                    "category_id": (4, 9)[category],
                    "bbox": BoxMode.convert(box, BoxMode.XYXY_ABS, BoxMode.XYWH_ABS),
                    "area": (box[2] - box[0]) * (box[3] - box[1]),
                    "iscrowd": 0,
                    "segmentation": [[box[0], box[1], box[2], box[1], box[2], box[3], box[0], box[3]]],
                }
                for i, (box, category) in enumerate(zip(BOXES, CLASSES, strict=True))
            ]
        name = f"contract_eval_{next(_numbers)}"
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps(content))
        register_coco_instances(name, {}, str(path), "")
        names.append(name)
        return name

    names: list[str] = []
    yield make
    for name in names:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def _predictions(boxes=BOXES, classes=CLASSES, masks: bool = False) -> list[dict]:
    instances = Instances((200, 200), pred_boxes=Boxes(boxes), pred_classes=torch.tensor(classes, dtype=torch.int64))
    instances.scores = torch.linspace(0.9, 0.5, len(boxes))
    if masks:
        instances.pred_masks = torch.zeros(len(boxes), 200, 200, dtype=torch.bool)
        for mask, (x0, y0, x1, y1) in zip(instances.pred_masks, boxes, strict=True):
            mask[y0:y1, x0:x1] = True
    return [{"instances": instances}]


def _evaluate(evaluator: COCOEvaluator, outputs: list[dict], **kwargs) -> dict:
    evaluator.reset()
    evaluator.process([{"image_id": 1}], outputs)
    return evaluator.evaluate(**kwargs)


@pytest.mark.parametrize("use_fast_impl", [True, False])
def test_perfect_detections(data_set, use_fast_impl) -> None:
    name = data_set()
    DatasetCatalog.get(name)
    results = _evaluate(COCOEvaluator(name, use_fast_impl=use_fast_impl), _predictions())
    expected = dict.fromkeys(["AP", "AP50", "AP75", "APs", "APm", "APl", "AP-cat", "AP-dog"], 100.0)
    expected["APl"] = float("nan")
    assert list(results) == ["bbox"]
    assert list(results["bbox"]) == list(expected)
    assert results["bbox"] == pytest.approx(expected, nan_ok=True)


def test_figures_by_hand(data_set) -> None:
    """One of two dogs is missed and its detection has IoU 0.6; the cat is found at IoU 0.8."""
    name = data_set()
    DatasetCatalog.get(name)
    boxes = [[10, 10, 50, 60], [100, 20, 130, 80]]
    bbox = _evaluate(COCOEvaluator(name), _predictions(boxes, [0, 1]))["bbox"]
    assert bbox["AP-cat"] == pytest.approx(100 * 7 / 10)  # thresholds 0.5 to 0.8
    recalled = 51 / 101  # recall points 0 to 0.5
    assert bbox["AP-dog"] == pytest.approx(100 * 3 / 10 * recalled)
    assert bbox["AP50"] == pytest.approx(100 * (1 + recalled) / 2)
    assert bbox["AP"] == pytest.approx((bbox["AP-cat"] + bbox["AP-dog"]) / 2)


def test_masks(data_set, tmp_path) -> None:
    name = data_set()
    DatasetCatalog.get(name)
    results = _evaluate(COCOEvaluator(name), _predictions(masks=True))
    assert sorted(results) == ["bbox", "segm"]
    assert results["segm"]["AP"] == pytest.approx(100)
    assert list(_evaluate(COCOEvaluator(name, tasks=("segm",)), _predictions(masks=True))) == ["segm"]


def test_files(data_set, tmp_path) -> None:
    name = data_set()
    DatasetCatalog.get(name)
    _evaluate(COCOEvaluator(name, output_dir=str(tmp_path / "out")), _predictions())
    results = json.loads((tmp_path / "out" / "coco_instances_results.json").read_text())
    assert results[1]["image_id"] == 1
    assert results[1]["category_id"] == 9  # the file's ids
    assert results[1]["bbox"] == [100, 20, 30, 100]
    saved = torch.load(tmp_path / "out" / "instances_predictions.pth", weights_only=True)
    assert saved[0]["image_id"] == 1
    assert set(saved[0]["instances"][0]) == {"image_id", "category_id", "bbox", "score"}


def test_without_annotations_only_files(data_set, tmp_path) -> None:
    name = data_set(annotated=False)
    DatasetCatalog.get(name)
    assert _evaluate(COCOEvaluator(name, output_dir=str(tmp_path / "out")), _predictions()) == {}
    assert len(json.loads((tmp_path / "out" / "coco_instances_results.json").read_text())) == 3


def test_nothing_predicted(data_set) -> None:
    name = data_set()
    DatasetCatalog.get(name)
    evaluator = COCOEvaluator(name)
    assert all(math.isnan(value) for value in _evaluate(evaluator, _predictions([], []))["bbox"].values())
    evaluator.reset()
    assert evaluator.evaluate() == {}


def test_a_class_that_does_not_exist(data_set) -> None:
    name = data_set()
    DatasetCatalog.get(name)
    with pytest.raises(AssertionError, match="class=2"):
        _evaluate(COCOEvaluator(name), _predictions(classes=[0, 1, 2]))


def test_some_images_only(data_set) -> None:
    name = data_set()
    DatasetCatalog.get(name)
    results = _evaluate(COCOEvaluator(name), _predictions(), img_ids=[2])
    assert math.isnan(results["bbox"]["AP"])


def test_a_data_set_in_another_format(tmp_path) -> None:
    name = f"contract_eval_{next(_numbers)}"
    annotations = [
        {"bbox": box, "bbox_mode": BoxMode.XYXY_ABS, "category_id": category}
        for box, category in zip(BOXES, CLASSES, strict=True)
    ]
    record = {"file_name": "1.jpg", "height": 200, "width": 200, "image_id": 1, "annotations": annotations}
    DatasetCatalog.register(name, lambda: [record])
    MetadataCatalog.get(name).thing_classes = ["cat", "dog"]
    with pytest.raises(ValueError, match="output_dir"):
        COCOEvaluator(name)
    results = _evaluate(COCOEvaluator(name, output_dir=str(tmp_path)), _predictions())
    assert results["bbox"]["AP"] == pytest.approx(100)
    assert (tmp_path / f"{name}_coco_format.json").is_file()


@lite_only("AP 0 without a message if the data set was not read before")
def test_a_data_set_that_was_not_read(data_set) -> None:
    assert _evaluate(COCOEvaluator(data_set()), _predictions())["bbox"]["AP-dog"] == pytest.approx(100)


@lite_only("maps the category ids of the collected predictions in place")
def test_evaluating_twice(data_set) -> None:
    name = data_set()
    DatasetCatalog.get(name)
    evaluator = COCOEvaluator(name)
    first = _evaluate(evaluator, _predictions(masks=True))
    assert str(evaluator.evaluate()) == str(first)  # NaN is no equal of itself


@lite_only("limits below 10 are taken as 10, because pycocotools sorts them")
def test_limit_of_detections(data_set) -> None:
    name = data_set()
    DatasetCatalog.get(name)
    bbox = _evaluate(COCOEvaluator(name, max_dets_per_image=1), _predictions())["bbox"]
    assert bbox["AP-cat"] == pytest.approx(100)
    assert bbox["AP-dog"] == pytest.approx(100 * 51 / 101)


@lite_only("unknown classes just count as wrong")
def test_predictions_in_unknown_ids_are_reported(data_set, tmp_path, d2_log) -> None:
    name = data_set()
    other = f"{name}_raw"
    DatasetCatalog.register(other, list)
    MetadataCatalog.get(other).json_file = MetadataCatalog.get(name).json_file
    assert _evaluate(COCOEvaluator(other), _predictions())["bbox"]["AP"] == 0
    assert any("no category ids" in r.getMessage() for r in d2_log.records if r.levelno == logging.WARNING)
    DatasetCatalog.remove(other)
    MetadataCatalog.remove(other)


@lite_only("evaluates keypoints; unknown tasks fail at the end of the evaluation")
def test_unknown_tasks(data_set) -> None:
    name = data_set()
    with pytest.raises(NotImplementedError, match="keypoints"):
        COCOEvaluator(name, tasks=("keypoints",))
    with pytest.raises(ValueError, match="boxes"):
        COCOEvaluator(name, tasks=("boxes",))


@lite_only("has its own compiled implementation")
def test_hotcoco_gives_the_same_bits(data_set) -> None:
    pytest.importorskip("hotcoco")
    from detectron2.evaluation import _coco_metrics

    assert _coco_metrics._hotcoco_agrees()


@lite_only("has its own compiled implementation")
def test_a_wrong_fast_implementation_is_not_used(monkeypatch, d2_log) -> None:
    import sys
    import types

    from detectron2.evaluation import _coco_metrics
    from pycocotools import coco, cocoeval

    class Wrong(cocoeval.COCOeval):
        def accumulate(self, p=None) -> None:
            super().accumulate(p)
            self.eval["precision"] = self.eval["precision"] * (1 + 1e-15)

    def from_dict(dataset: dict) -> coco.COCO:
        api = coco.COCO()
        api.dataset = dataset
        api.createIndex()
        return api

    _coco_metrics._hotcoco_agrees.cache_clear()
    monkeypatch.setitem(sys.modules, "hotcoco", types.SimpleNamespace(COCO=from_dict, COCOeval=Wrong))
    assert not _coco_metrics._hotcoco_agrees()
    assert any("disagrees" in r.getMessage() for r in d2_log.records)
    _coco_metrics._hotcoco_agrees.cache_clear()
    monkeypatch.setitem(sys.modules, "hotcoco", types.SimpleNamespace(COCO=from_dict, COCOeval=cocoeval.COCOeval))
    assert _coco_metrics._hotcoco_agrees()
    _coco_metrics._hotcoco_agrees.cache_clear()


def test_instances_to_coco_json() -> None:
    (output,) = _predictions(masks=True)
    first = instances_to_coco_json(output["instances"], 7)[0]
    assert (first["image_id"], first["category_id"], first["bbox"]) == (7, 0, [10, 10, 50, 50])
    assert first["segmentation"]["size"] == [200, 200]
    assert isinstance(first["segmentation"]["counts"], str)
    assert instances_to_coco_json(output["instances"][:0], 7) == []


class _Counter(DatasetEvaluator):
    def __init__(self, task: str) -> None:
        self.task = task

    def reset(self) -> None:
        self.seen = []

    def process(self, inputs: list, outputs: list) -> None:
        self.seen += outputs

    def evaluate(self) -> dict:
        return {self.task: {"sum": sum(self.seen)}}


class _Double(torch.nn.Module):
    def forward(self, inputs: list) -> list:
        assert not self.training
        assert not torch.is_grad_enabled()
        return [2 * x for x in inputs]


def test_inference_on_dataset(d2_log) -> None:
    calls: list[str] = []
    names = ("on_start", "before_inference", "after_inference", "on_end")
    callbacks = {name: lambda name=name: calls.append(name) for name in names}
    model = _Double().train()
    loader = [[1, 2], [3], [4]]
    results = inference_on_dataset(model, loader, [_Counter("a"), _Counter("b")], callbacks=callbacks)
    assert results == {"a": {"sum": 20}, "b": {"sum": 20}}
    assert model.training
    assert calls == ["on_start", *(["before_inference", "after_inference"] * 3), "on_end"]
    assert any(r.getMessage().startswith("Total inference time: ") for r in d2_log.records)
    assert inference_on_dataset(model.eval(), loader, None) == {}
    assert not model.training
    assert inference_on_dataset(lambda inputs: inputs, loader, _Counter("a")) == {"a": {"sum": 10}}


def test_long_inference_reports_progress(d2_log, monkeypatch) -> None:
    # At most one report in five seconds; an earlier test may have had its own, by either clock.
    for clock in ("time", "monotonic"):
        later = getattr(time, clock)() + 1e3
        monkeypatch.setattr(time, clock, lambda later=later: later)
    inference_on_dataset(_Double(), [[i] for i in range(30)], _Counter("a"))
    assert any("Inference done 1" in r.getMessage() and "ETA=" in r.getMessage() for r in d2_log.records)


def test_evaluators_must_have_different_tasks() -> None:
    evaluators = DatasetEvaluators([_Counter("a"), _Counter("a")])
    evaluators.reset()
    with pytest.raises(AssertionError):
        evaluators.evaluate()


def test_inference_context() -> None:
    model = torch.nn.Linear(1, 1)
    with inference_context(model):
        assert not model.training
    assert model.training


@lite_only("the model stays in evaluation mode after an exception")
def test_inference_context_after_an_exception() -> None:
    model = torch.nn.Linear(1, 1)
    with pytest.raises(RuntimeError), inference_context(model):
        raise RuntimeError
    assert model.training


def test_csv_lines(d2_log) -> None:
    print_csv_format({"bbox": {"AP": 1.23456, "AP50": float("nan"), "AP-cat": 3.0}, "speed": 3})
    assert [r.getMessage() for r in d2_log.records] == [
        "copypaste: Task: bbox",
        "copypaste: AP,AP50",
        "copypaste: 1.2346,nan",
        "copypaste: speed=3",
    ]


def test_flattening() -> None:
    assert flatten_results_dict({"a": {"b": {"c": 1}, "d": 2}, "e": 3}) == {"a/b/c": 1, "a/d": 2, "e": 3}
