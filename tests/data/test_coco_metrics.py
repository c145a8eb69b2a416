"""The fast backend of COCO's average precision against pycocotools, on problems made to disagree."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import print_csv_format
from detectron2.structures import Boxes, Instances
from hypothesis import given, settings
from hypothesis import strategies as st

from detrex.data import DetrDatasetMapper, build_coco_evaluator, ground_truth, metric_names
from detrex.data.coco_metrics import BoxMetrics, evaluate_boxes
from detrex.data.evaluation import METRICS

pytest.importorskip("hotcoco", reason="the fast backend is not installed")


def problem(
    seed: int, *, images=6, classes=3, objects=40, detections=200, crowds=0.2, grid=True
) -> tuple[dict, np.ndarray]:
    """Boxes that coincide and touch, areas on COCO's limits, tied scores, ids in no order, images without either."""
    rng = np.random.default_rng(seed)

    def box() -> list[float]:
        if grid:
            return [*map(float, 8 * rng.integers(0, 6, 2)), *map(float, rng.choice([0, 8, 16, 32, 96, 31.999], 2))]
        return [*rng.uniform(-10, 100, 2).tolist(), *rng.uniform(0, 150, 2).tolist()]

    image_ids = rng.permutation([0, 1, 7, 139, 2**31, 2**53 + 1, -4, 12, 13, 14][:images]).tolist()
    class_ids = rng.permutation([90, 1, 17, 0, -2][:classes]).tolist()
    annotations = []
    for _ in range(objects):
        bbox = box()
        area = float(rng.choice([bbox[2] * bbox[3], 32.0**2, 96.0**2, 0.0]))
        annotations.append({"bbox": bbox, "area": area, "iscrowd": int(rng.random() < crowds)})
        annotations[-1] |= {"image_id": int(rng.choice(image_ids[1:] or image_ids)), "ignore": int(rng.random() < 0.1)}
        annotations[-1] |= {"category_id": int(rng.choice(class_ids))}
    for annotation, number in zip(annotations, rng.permutation(objects), strict=True):
        annotation["id"] = int(number)  # 0 among them
    content = {
        "images": [{"id": image_id} for image_id in image_ids],
        "categories": [{"id": class_id, "name": str(class_id)} for class_id in class_ids],
        "annotations": annotations,
    }
    rows = np.empty((detections, 7))
    for row in rows:
        hit = annotations and rng.random() < 0.7
        row[1:5] = annotations[rng.integers(len(annotations))]["bbox"] if hit else box()
        row[0], row[6] = rng.integers(images), rng.integers(classes)
        row[5] = rng.integers(0, 5) / 4 if grid else rng.random()
    return content, rows[np.argsort(rows[:, 0], kind="stable")]


def assert_equal(content: dict, detections: np.ndarray, max_dets: int = 100) -> None:
    fast, slow = (evaluate_boxes(content, detections, max_dets=max_dets, use_fast_impl=f) for f in (True, False))
    assert (fast.backend, slow.backend) == ("hotcoco", "pycocotools")
    np.testing.assert_allclose(fast.precision_TRKA, slow.precision_TRKA, rtol=0, atol=1e-10)
    np.testing.assert_allclose(fast.recall_TKAM, slow.recall_TKAM, rtol=0, atol=1e-10)
    assert fast.summary() == pytest.approx(slow.summary(), rel=0, abs=1e-10, nan_ok=True)


@pytest.mark.parametrize(
    "kind",
    [
        {"crowds": 1.0},
        {"crowds": 0.0},
        {"objects": 0},
        {"images": 1, "classes": 1, "detections": 450},
        {"images": 10, "classes": 5, "detections": 3},
        {"grid": False, "objects": 120},
    ],
    ids=str,
)
def test_made_to_disagree(kind):
    for seed in range(3):
        assert_equal(*problem(seed, **kind))


@pytest.mark.parametrize("max_dets", [1, 2, 10, 50, 300])
def test_any_number_of_detections(max_dets):
    assert_equal(*problem(1, images=2, classes=1, detections=450, objects=80), max_dets)


@settings(database=None, deadline=None, derandomize=True, max_examples=60)
@given(
    seed=st.integers(0, 2**31),
    images=st.integers(1, 10),
    classes=st.integers(1, 5),
    objects=st.integers(0, 50),
    detections=st.integers(1, 300),
    crowds=st.sampled_from([0.0, 0.2, 0.9]),
    grid=st.booleans(),
    max_dets=st.sampled_from([1, 3, 10, 100, 250]),
)
def test_generated(seed, max_dets, **kind):
    assert_equal(*problem(seed, **kind), max_dets)


@pytest.mark.parametrize("fast", [True, False])
def test_figures_by_hand(fast):
    """Two objects of a class; one is found at IoU 0.8, beside a better-scored false detection. One class has none."""
    content = {
        "images": [{"id": 5}, {"id": 3}],
        "categories": [{"id": 2, "name": "b"}, {"id": 1, "name": "a"}],
        "annotations": [
            {"id": 0, "image_id": 3, "category_id": 1, "bbox": [0, 0, 100, 100], "iscrowd": 0},
            {"id": 1, "image_id": 5, "category_id": 1, "bbox": [0, 0, 10, 10], "area": 100, "iscrowd": 0},
        ],
    }
    rows = np.array([[0, 0, 0, 80, 100, 0.5, 0], [1, 50, 50, 9, 9, 0.9, 0.0]])
    metrics = evaluate_boxes(content, rows, use_fast_impl=fast)
    recalled = 51 / 101 * 0.5  # recalls up to 0.5 at precision 1/2
    assert metrics.summary()["AP50"] == pytest.approx(100 * recalled)
    assert metrics.summary()["AP"] == pytest.approx(100 * recalled * 7 / 10)  # IoU 0.5 to 0.8
    assert np.isnan(metrics.summary()["APm"])
    by_class = [of_class.summary()["AP"] for of_class in metrics.per_class()]
    assert by_class == pytest.approx([100 * recalled * 7 / 10, float("nan")], nan_ok=True)
    assert (metrics.num_objects, metrics.class_names, metrics.category_ids) == ((2, 0), ("a", "b"), (1, 2))
    np.testing.assert_allclose(metrics.curves()["0.75"], np.repeat([0.5, 0], [51, 50]))
    assert metrics.per_class()[1].curves() == {}
    assert metrics.recalls()["AR@1"] == pytest.approx(50 * 7 / 10)


def test_nothing_detected_is_zero_where_there_are_objects():
    content, _ = problem(0, classes=3)
    none, some = (
        evaluate_boxes(content, rows) for rows in (np.empty((0, 7)), np.array([[0, 500, 500, 1, 1, 0.5, 0.0]]))
    )
    np.testing.assert_array_equal(none.precision_TRKA > -1, some.precision_TRKA > -1)
    np.testing.assert_array_equal(none.recall_TKAM, some.recall_TKAM)


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("stated", [-5.0, float("nan"), float("inf"), None, "100", True])
def test_an_area_that_none_can_be_costs_no_ap(fast, stated):
    content, rows = problem(3, grid=False)
    for annotation in content["annotations"]:
        annotation["area"] = annotation["bbox"][2] * annotation["bbox"][3]
    right = evaluate_boxes(content, rows, use_fast_impl=fast).summary()
    for annotation in content["annotations"][::2]:
        annotation["area"] = stated
    assert evaluate_boxes(content, rows, use_fast_impl=fast).summary() == pytest.approx(right, abs=0, nan_ok=True)


def test_metrics_of_a_file_are_those_that_were_saved(tmp_path):
    content, rows = problem(4, classes=5)
    content["categories"][0]["name"] = "Z\u00e4hler \ud800\x1b"
    metrics = evaluate_boxes(content, rows, max_dets=5)
    metrics.save(tmp_path / METRICS)
    read = BoxMetrics.load(tmp_path / METRICS)
    assert read.max_dets == (1, 5)
    for ours, theirs in zip([metrics, *metrics.per_class()], [read, *read.per_class()], strict=True):
        assert theirs.summary() == pytest.approx(ours.summary(), abs=0, nan_ok=True)
        assert theirs.recalls() == pytest.approx(ours.recalls(), abs=0, nan_ok=True)
        assert (theirs.class_names, theirs.num_objects) == (ours.class_names, ours.num_objects)


@settings(database=None, deadline=None, derandomize=True, max_examples=50)
@given(cut=st.integers(0, 400), byte=st.integers(0, 255))
def test_a_damaged_file_of_metrics_is_named(tmp_path_factory, cut, byte):
    path = tmp_path_factory.mktemp("metrics") / METRICS
    evaluate_boxes(*problem(4, images=1, classes=1)).save(path)
    content = path.read_bytes()
    path.write_bytes(content[:cut] + bytes([byte]))
    with pytest.raises(ValueError, match=r"coco_instances_metrics\.npz holds no metrics of an evaluation"):
        BoxMetrics.load(path)


@pytest.fixture
def crowded(tmp_path):
    """A registered data set without a json: twelve objects on an image."""
    name = "coco_metrics_test"
    boxes = [[10.0 * i, 0.0, 10.0 * i + 9, 9.0] for i in range(12)]
    record = {"image_id": 4, "file_name": "4.png", "width": 200, "height": 100}
    record["annotations"] = [{"bbox": box, "bbox_mode": 0, "category_id": i % 2} for i, box in enumerate(boxes)]
    DatasetCatalog.register(name, lambda: [record])
    MetadataCatalog.get(name).thing_classes = ["cat", "dog"]
    yield name, boxes
    DatasetCatalog.remove(name)
    MetadataCatalog.remove(name)


def evaluate(evaluator, boxes, classes) -> dict:
    instances = Instances((100, 200), pred_boxes=Boxes(torch.tensor(boxes).reshape(-1, 4)))
    instances.scores, instances.pred_classes = (
        torch.linspace(0.9, 0.1, len(boxes)),
        torch.tensor(classes, dtype=torch.long),
    )
    evaluator.reset()
    evaluator.process([{"image_id": 4}], [{"instances": instances}])
    return evaluator.evaluate()["bbox"]


def test_class_names_that_cannot_be_shown_are_escaped(crowded):
    """They killed the first evaluation; the names of metrics go to terminals, json and TensorBoard."""
    name, boxes = crowded
    MetadataCatalog.get(name).thing_classes[:] = ["cat\x1b[31m", "d\ud800g"]
    results = evaluate(build_coco_evaluator(dataset_name=name), boxes, [i % 2 for i in range(12)])
    assert {"AP-cat\\x1b[31m", "AP-d\\ud800g"} < set(results)
    assert {f"bbox/{key}" for key in results} == set(metric_names(name))
    print_csv_format({"bbox": results})


@pytest.mark.parametrize(("crowd", "counts"), [("0", True), ("false", True), (False, True), ("1", False), (1, False)])
def test_crowd_flags_of_any_type(crowded, crowd, counts):
    """Text is true in Python: the objects of a registered data set would all have been crowds."""
    name, boxes = crowded
    content, record = ground_truth(name), DatasetCatalog.get(name)[0]
    for annotation in content["annotations"][1::2] + record["annotations"][1::2]:
        annotation["iscrowd"] = crowd
    rows = np.array([[0, *boxes[0], 0.5, 0.0]])
    assert evaluate_boxes(content, rows).num_objects == (6, 6 if counts else 0)
    sample = DetrDatasetMapper(augmentation=[], is_train=True).map_image(np.zeros((100, 200, 3), np.uint8), record)
    assert len(sample["instances"]) == (12 if counts else 6)


def test_more_objects_than_detections_is_a_warning(crowded, caplog):
    name, boxes = crowded
    classes = [i % 2 for i in range(12)]
    evaluator = build_coco_evaluator(dataset_name=name)
    assert evaluate(evaluator, boxes, classes)["AP"] == pytest.approx(100)
    assert "raise" not in caplog.text
    assert "at most" not in caplog.text
    assert evaluate(evaluator, boxes[:5], classes[:5])["AP-dog"] < 40
    assert "up to 12 objects on an image (id 4), but the model returned at most 5 detections" in caplog.text
    with caplog.at_level(logging.INFO):
        few = build_coco_evaluator(dataset_name=name, max_dets_per_image=4, use_fast_impl=False)
        assert evaluate(few, boxes, classes)["AP"] < 100
    assert "but 4 detections of a class count; raise dataloader.evaluator.max_dets_per_image" in caplog.text
    assert "by pycocotools, up to 4 detections" in caplog.text
    with pytest.raises(ValueError, match=r"max_dets_per_image=0: give 1 or more"):
        build_coco_evaluator(dataset_name=name, max_dets_per_image=0)


def test_the_evaluator_leaves_its_own_figures(crowded, tmp_path):
    """The report reads them. Annotation id 0 and another limit of detections give other figures by pycocotools."""
    name, boxes = crowded
    evaluator = build_coco_evaluator(dataset_name=name, output_dir=str(tmp_path), max_dets_per_image=5)
    results = evaluate(evaluator, boxes, [i % 2 for i in range(12)])
    metrics = BoxMetrics.load(tmp_path / METRICS)
    assert metrics.summary() == {key: pytest.approx(results[key], abs=0, nan_ok=True) for key in metrics.summary()}
    assert results["AP-cat"] == metrics.per_class()[0].summary()["AP"] < 100
    assert list(metrics.recalls()) == ["AR@1", "AR@5", "ARs", "ARm", "ARl"]
    assert (metrics.num_images, metrics.class_names, metrics.num_objects) == (1, ("cat", "dog"), (6, 6))
    assert {f"bbox/{key}" for key in results} == set(metric_names(name))
    with pytest.raises(ValueError, match="class 2"):
        evaluate(evaluator, boxes[:1], [2])
    assert (tmp_path / METRICS).exists()  # still those of the results beside it
    evaluator._content.pop("annotations")
    evaluator.reset()
    evaluator.process([{"image_id": 4}], [{"instances": empty_instances()}])
    assert evaluator.evaluate() == {}
    assert not (tmp_path / METRICS).exists()


def empty_instances() -> Instances:
    nothing = {"scores": torch.zeros(0), "pred_classes": torch.zeros(0, dtype=torch.long)}
    return Instances((1, 1), pred_boxes=Boxes(torch.zeros(0, 4)), **nothing)


def test_predictions_that_do_not_fit_the_data_set(crowded):
    name, boxes = crowded
    evaluator = build_coco_evaluator(dataset_name=name)
    with pytest.raises(ValueError, match="class 2 was predicted, but coco_metrics_test has 2 classes"):
        evaluate(evaluator, boxes[:1], [2])
    evaluator.reset()
    evaluator.process([{"image_id": 9}], [{"instances": empty_instances()}])
    with pytest.raises(ValueError, match="image 9 was evaluated, but coco_metrics_test has no such image"):
        evaluator.evaluate()
    evaluator.reset()
    assert evaluator.evaluate() == {}
    assert np.isnan(evaluate(evaluator, [], [])["APm"])
    assert evaluate(evaluator, [], [])["AP"] == 0
