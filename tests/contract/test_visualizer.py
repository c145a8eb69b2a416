"""Drawing."""

from __future__ import annotations

import random

import numpy as np
import pycocotools.mask as coco_mask
import pytest
import torch
from detectron2.data import MetadataCatalog
from detectron2.structures import BitMasks, Boxes, BoxMode, Instances, PolygonMasks
from detectron2.utils.colormap import colormap, random_color, random_colors
from detectron2.utils.video_visualizer import VideoVisualizer, _DetectedInstance
from detectron2.utils.visualizer import ColorMode, GenericMask, VisImage, Visualizer, _create_text_labels
from PIL import Image

from .conftest import lite_only

GRAY = np.full((80, 120, 3), 128, dtype=np.uint8)
SQUARE = [20.0, 20.0, 60.0, 20.0, 60.0, 60.0, 20.0, 60.0]


@pytest.fixture
def metadata():
    yield MetadataCatalog.get("contract_vis").set(
        thing_classes=["cat", "dog"],
        thing_colors=[[255, 0, 0], [0, 255, 0]],
        stuff_classes=["sky", "sea"],
        stuff_colors=[[0, 0, 255], [0, 255, 255]],
    )
    MetadataCatalog.remove("contract_vis")


def _predictions(masks: bool = False) -> Instances:
    instances = Instances((80, 120), pred_boxes=Boxes([[20, 20, 60, 60], [70, 5, 110, 70]]))
    instances.scores, instances.pred_classes = torch.tensor([0.876, 0.5]), torch.tensor([0, 1])
    if masks:
        instances.pred_masks = torch.zeros(2, 80, 120, dtype=torch.bool)
        instances.pred_masks[0, 20:60, 20:60] = True
        instances.pred_masks[1, 5:70, 70:110] = True
    return instances


def _texts(output: VisImage) -> list[str]:
    return [text.get_text() for text in output.ax.texts]


@pytest.mark.parametrize("scale", [1.0, 1.5])
def test_canvas(scale, tmp_path) -> None:
    canvas = VisImage(GRAY, scale=scale)
    image = canvas.get_image()
    assert image.shape == (80 * scale, 120 * scale, 3)
    assert image.dtype == np.uint8
    assert (image == 128).all()
    canvas.reset_image(GRAY // 2)
    assert (canvas.get_image() == 64).all()
    canvas.save(str(tmp_path / "x.png"))
    assert Image.open(tmp_path / "x.png").size == (120 * scale, 80 * scale)


def test_detections(metadata) -> None:
    output = Visualizer(GRAY, metadata).draw_instance_predictions(_predictions())
    assert sorted(_texts(output)) == ["cat 88%", "dog 50%"]
    image = output.get_image()
    assert (image[40, 40] == 128).all()  # boxes are outlines
    assert (image[30:50, 20] != 128).any()


def test_masks_are_filled(metadata) -> None:
    image = (
        Visualizer(GRAY, metadata, instance_mode=ColorMode.SEGMENTATION)
        .draw_instance_predictions(_predictions(masks=True), jittering=False)
        .get_image()
    )
    assert image[50, 40, 0] > 200
    assert image[50, 40, 1] < 60
    assert image[50, 90, 1] > 200
    assert (image[75, 5] == 128).all()


def test_grey_outside_the_masks(metadata) -> None:
    coloured = np.zeros((80, 120, 3), dtype=np.uint8)
    coloured[..., 0] = 90
    visualizer = Visualizer(coloured, metadata, instance_mode=ColorMode.IMAGE_BW)
    image = visualizer.draw_instance_predictions(_predictions(masks=True)).get_image()
    assert image[78, 3].tolist() == [30, 30, 30]
    without = Visualizer(coloured, metadata, instance_mode=ColorMode.IMAGE_BW)
    assert without.draw_instance_predictions(_predictions()).get_image()[78, 3].tolist() == [30, 30, 30]


def test_annotations(metadata) -> None:
    annotations = [
        {"bbox": [20, 20, 40, 40], "bbox_mode": BoxMode.XYWH_ABS, "category_id": 1, "iscrowd": 1},
        {"bbox": [70, 5, 110, 70], "bbox_mode": BoxMode.XYXY_ABS, "category_id": 0},
    ]
    for annotation in annotations:
        annotation["segmentation"] = [SQUARE]
    visualizer = Visualizer(GRAY, metadata)
    assert sorted(_texts(visualizer.draw_dataset_dict({"annotations": annotations}))) == ["cat", "dog|crowd"]
    assert visualizer.get_output() is visualizer.output


def test_semantic_labels(metadata, tmp_path) -> None:
    labels = np.full((80, 120), 255, dtype=np.uint8)
    labels[:40] = 1
    Image.fromarray(labels).save(tmp_path / "labels.png")
    output = Visualizer(GRAY, metadata).draw_dataset_dict({"sem_seg_file_name": str(tmp_path / "labels.png")})
    assert _texts(output) == ["sea"]
    image = output.get_image()
    assert image[10, 10].tolist() != [128] * 3
    assert image[70, 10].tolist() == [128] * 3


def _mask_forms() -> dict:
    bitmap = np.zeros((80, 120), dtype=bool)
    bitmap[20:60, 20:60] = True
    rle = coco_mask.encode(np.asfortranarray(bitmap.astype(np.uint8)))
    return {
        "polygons": [[SQUARE]],
        "PolygonMasks": PolygonMasks([[np.array(SQUARE)]]),
        "BitMasks": BitMasks(bitmap[None]),
        "tensor": torch.from_numpy(bitmap[None]),
        "array": bitmap[None],
        "rle": [rle],
        "uncompressed": [{"size": [80, 120], "counts": [20 * 80 + 20, *([40, 40] * 40)[:-1], 80 * 60 + 20]}],
        "GenericMask": [GenericMask([SQUARE], 80, 120)],
    }


@pytest.mark.parametrize("form", list(_mask_forms()))
def test_any_form_of_mask(form) -> None:
    masks = _mask_forms()[form]
    image = Visualizer(GRAY).overlay_instances(masks=masks, labels=["x"], assigned_colors=["r"]).get_image()
    assert image[30, 30, 0] > 180
    assert image[70, 70].tolist() == [128] * 3


def test_overlay_of_arrays_and_of_nothing() -> None:
    visualizer = Visualizer(GRAY)
    boxes = np.array([[20.0, 20, 60, 60], [70, 5, 110, 70]])
    assert _texts(visualizer.overlay_instances(boxes=boxes, labels=["a", "b"])) == ["b", "a"]  # large ones first
    assert (Visualizer(GRAY).overlay_instances(boxes=Boxes([])).get_image() == 128).all()
    assert (Visualizer(GRAY).overlay_instances().get_image() == 128).all()
    with pytest.raises(AssertionError):
        visualizer.overlay_instances(boxes=boxes, labels=["a"])
    with pytest.raises(AssertionError):
        visualizer.overlay_instances(boxes=boxes, masks=[[SQUARE]])


def test_generic_mask() -> None:
    bitmap = np.zeros((80, 120), dtype=np.uint8)
    bitmap[10:50, 20:70] = 1
    mask = GenericMask(bitmap, 80, 120)
    assert (mask.area(), mask.has_holes) == (2000, False)
    (polygon,) = mask.polygons
    again = GenericMask([polygon], 80, 120)
    assert np.abs(again.mask.astype(int) - bitmap).sum() <= 0.1 * 2000
    assert np.abs(np.asarray(mask.bbox()).ravel() - [20, 10, 70, 50]).max() <= 1
    bitmap[20:30, 30:40] = 0
    assert GenericMask(bitmap, 80, 120).has_holes
    assert GenericMask(np.zeros((80, 120)), 80, 120).polygons == []
    with pytest.raises((AssertionError, ValueError)):
        GenericMask(bitmap, 10, 10)
    with pytest.raises(ValueError, match=r"int|mask"):
        GenericMask(3, 80, 120)


@lite_only("outlines run through the centres of the border pixels")
def test_outlines_enclose_the_mask() -> None:
    bitmap = np.zeros((80, 120), dtype=np.uint8)
    bitmap[10:50, 20:70] = 1
    (polygon,) = GenericMask(bitmap, 80, 120).polygons
    points = polygon.reshape(-1, 2)
    assert points.min(axis=0).tolist() == [20, 10]
    assert points.max(axis=0).tolist() == [70, 50]
    assert np.array_equal(GenericMask([polygon], 80, 120).mask, bitmap)


def test_binary_masks() -> None:
    bitmap = np.zeros((80, 120), dtype=np.uint8)
    bitmap[10:50, 20:70] = 1
    bitmap[70:72, 100:102] = 1  # smaller than the threshold
    output = Visualizer(GRAY).draw_binary_mask(bitmap, color="r", text="object", area_threshold=10)
    assert _texts(output) == ["object"]
    image = output.get_image()
    assert image[15, 25, 0] > 180
    assert image[70, 100].tolist() == [128] * 3
    bitmap[20:40, 30:50] = 0
    holed = Visualizer(GRAY).draw_binary_mask(bitmap, color="r").get_image()
    assert holed[30, 40].tolist() == [128] * 3
    assert holed[15, 25, 0] > 180


def test_primitives() -> None:
    visualizer = Visualizer(GRAY)
    visualizer.draw_box((10, 10, 100, 70), edge_color="r")
    visualizer.draw_line([0, 50], [5, 5], color="b")
    visualizer.draw_circle((60, 40), color="g", radius=5)
    visualizer.draw_polygon(np.array([[80, 20], [95, 20], [95, 60]]), color="m", alpha=0.9)
    visualizer.draw_text("words", (20, 20), color="k")
    image = visualizer.get_output().get_image()
    assert image[40, 60].tolist() == [0, 128, 0]
    assert image[5, 20, 2] > 200
    assert image[40, 10, 0] > 150
    assert _texts(visualizer.output) == ["words"]
    soft = Visualizer(GRAY).draw_soft_mask(np.full((80, 120), 0.5), color="r", alpha=1.0).get_image()
    assert soft[40, 40].tolist() == pytest.approx([192, 64, 64], abs=2)


def test_labels() -> None:
    assert _create_text_labels(None, None, ["a"]) is None
    assert _create_text_labels([1, 0], [0.123, 0.9], ["a", "b"]) == ["b 12%", "a 90%"]
    assert _create_text_labels([1], None, None, [True]) == ["1|crowd"]
    assert _create_text_labels(None, [0.5], None) == ["50%"]


def test_colours() -> None:
    assert colormap().shape == (74, 3)
    assert np.allclose(colormap(rgb=True)[0], [0, 0.447 * 255, 0.741 * 255])
    assert np.allclose(colormap(rgb=False, maximum=1)[0], [0.741, 0.447, 0])
    np.random.seed(0)  # noqa: NPY002 -- what random_color draws from
    assert np.array_equal(random_color(rgb=True), colormap(rgb=True)[44])
    random.seed(0)
    several = random_colors(74, rgb=True, maximum=1)
    assert {tuple(c) for c in several} == {tuple(c) for c in colormap(rgb=True, maximum=1)}
    with pytest.raises(AssertionError):
        colormap(maximum=7)


def test_video_by_id(metadata) -> None:
    visualizer = VideoVisualizer(metadata)
    predictions = _predictions()
    predictions.ID = [7, 8]
    first = visualizer.draw_instance_predictions(GRAY, predictions).get_image()
    assert np.array_equal(visualizer.draw_instance_predictions(GRAY, predictions).get_image(), first)
    assert (visualizer.draw_instance_predictions(GRAY, predictions[:0]).get_image() == 128).all()


def test_video_keeps_colours_by_overlap(metadata) -> None:
    visualizer = VideoVisualizer(metadata)

    def colours(boxes: list, labels: list) -> list[tuple]:
        detected = [_DetectedInstance(k, b, None, None, 8) for k, b in zip(labels, boxes, strict=True)]
        return [tuple(c) for c in visualizer._assign_colors(detected)]

    boxes = [[0.0, 0.0, 20.0, 20.0], [50.0, 50.0, 90.0, 80.0]]
    first = colours(boxes, [0, 1])
    assert colours(boxes[::-1], [1, 0]) == first[::-1]
    assert colours(boxes[:1], [0]) == first[:1]
    assert colours(boxes, [0, 1]) == first  # a missed object is remembered
    with pytest.raises(AssertionError):
        VideoVisualizer(metadata, ColorMode.SEGMENTATION)


@lite_only("takes (x0, y0, x1, y1) for (x, y, w, h) when it compares boxes")
def test_video_tells_distant_objects_apart(metadata) -> None:
    visualizer = VideoVisualizer(metadata)
    old = [_DetectedInstance(0, [1000.0, 1000.0, 1010.0, 1010.0], None, (1, 2, 3), 8)]
    visualizer._assign_colors(old)
    (colour,) = visualizer._assign_colors([_DetectedInstance(0, [1050.0, 1050.0, 1060.0, 1060.0], None, None, 8)])
    assert tuple(colour) != (1, 2, 3)
