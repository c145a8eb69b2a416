"""Images, annotations and the mapper."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pycocotools.mask as coco_mask
import pytest
import torch
from detectron2.data import DatasetMapper, MetadataCatalog
from detectron2.data import detection_utils as utils
from detectron2.data import transforms as T
from detectron2.structures import BitMasks, Boxes, BoxMode, Instances, PolygonMasks
from PIL import Image

from .conftest import lite_only

PIXELS = np.random.default_rng(0).integers(0, 255, (40, 60, 3), dtype=np.uint8)
SQUARE = [10.0, 10.0, 30.0, 10.0, 30.0, 30.0, 10.0, 30.0]


@pytest.fixture
def image_file(tmp_path: Path) -> str:
    Image.fromarray(PIXELS).save(tmp_path / "image.png")
    return str(tmp_path / "image.png")


def test_reading_formats(image_file) -> None:
    assert np.array_equal(utils.read_image(image_file), PIXELS)
    assert np.array_equal(utils.read_image(image_file, "RGB"), PIXELS)
    assert np.array_equal(utils.read_image(image_file, "BGR"), PIXELS[..., ::-1])
    assert utils.read_image(image_file, "L").shape == (40, 60, 1)
    yuv = utils.read_image(image_file, "YUV-BT.601")
    assert np.allclose(yuv[..., 0] * 255, PIXELS @ [0.299, 0.587, 0.114])


@pytest.mark.parametrize("format", ["RGB", "BGR", "YUV-BT.601"])
def test_back_to_rgb(image_file, format) -> None:
    image = utils.convert_image_to_rgb(torch.from_numpy(utils.read_image(image_file, format).copy()), format)
    assert np.abs(image.astype(float) - PIXELS).max() < 1
    gray = utils.convert_image_to_rgb(utils.read_image(image_file, "L"), "L")
    assert gray.shape == PIXELS.shape
    assert (gray[..., 0] == gray[..., 2]).all()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_are_turned_upright(tmp_path, orientation) -> None:
    stored = {
        1: PIXELS,
        2: PIXELS[:, ::-1],
        3: PIXELS[::-1, ::-1],
        4: PIXELS[::-1],
        5: PIXELS.transpose(1, 0, 2),
        6: np.rot90(PIXELS),
        7: PIXELS[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(PIXELS, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.ascontiguousarray(stored)).save(tmp_path / "turned.png", exif=exif)
    assert np.array_equal(utils.read_image(str(tmp_path / "turned.png"), "RGB"), PIXELS)


def test_image_sizes() -> None:
    record = {"file_name": "x.jpg"}
    utils.check_image_size(record, PIXELS)
    assert (record["width"], record["height"]) == (60, 40)
    utils.check_image_size(record, PIXELS)
    with pytest.raises(utils.SizeMismatchError, match=r"x\.jpg"):
        utils.check_image_size({"file_name": "x.jpg", "width": 40, "height": 60}, PIXELS)


def _annotation(**changes) -> dict:
    return {"bbox": [10.0, 10.0, 20.0, 20.0], "bbox_mode": BoxMode.XYWH_ABS, "category_id": 2} | changes


def test_annotations_move_with_the_image() -> None:
    transforms = [T.HFlipTransform(60), T.ResizeTransform(40, 60, 80, 120)]
    rle = coco_mask.merge(coco_mask.frPyObjects([SQUARE], 40, 60))
    moved = utils.transform_instance_annotations(_annotation(segmentation=[SQUARE]), transforms, (80, 120))
    assert moved["bbox"].tolist() == [60, 20, 100, 60]
    assert moved["bbox_mode"] == BoxMode.XYXY_ABS
    assert moved["segmentation"][0].reshape(4, 2).min(axis=0).tolist() == [60, 20]
    bitmap = utils.transform_instance_annotations(_annotation(segmentation=rle), transforms, (80, 120))["segmentation"]
    assert bitmap.shape == (80, 120)
    assert bitmap[20:60, 60:100].all()
    assert bitmap.sum() == 1600
    with pytest.raises(ValueError, match="segmentation"):
        utils.transform_instance_annotations(_annotation(segmentation=3), transforms, (80, 120))


def test_boxes_are_clipped() -> None:
    outside = _annotation(bbox=[-5.0, 20.0, 100.0, 100.0])
    moved = utils.transform_instance_annotations(outside, T.NoOpTransform(), (40, 60))
    assert moved["bbox"].tolist() == [0, 20, 60, 40]


def test_keypoints_mirror() -> None:
    keypoints = [10.0, 5.0, 2, 50.0, 5.0, 1, 70.0, 5.0, 2, 3.0, 3.0, 0]
    flip = T.TransformList([T.HFlipTransform(60)])
    moved = utils.transform_instance_annotations(
        _annotation(keypoints=keypoints), flip, (40, 60), keypoint_hflip_indices=[1, 0, 2, 3]
    )
    assert moved["keypoints"].tolist() == [[10, 5, 1], [50, 5, 2], [0, 0, 0], [0, 0, 0]]
    for indices in (None, [0]):
        with pytest.raises(ValueError, match=r"(?i)keypoint|flip"):
            utils.transform_instance_annotations(
                _annotation(keypoints=keypoints), flip, (40, 60), keypoint_hflip_indices=indices
            )


def test_annotations_to_instances() -> None:
    rle = coco_mask.merge(coco_mask.frPyObjects([SQUARE], 40, 60))
    bitmap = coco_mask.decode(rle)
    polygons = utils.annotations_to_instances([_annotation(segmentation=[SQUARE])], (40, 60))
    assert polygons.gt_boxes.tensor.tolist() == [[10, 10, 30, 30]]
    assert polygons.gt_boxes.tensor.dtype == torch.float32
    assert polygons.gt_classes.tolist() == [2]
    assert polygons.gt_classes.dtype == torch.int64
    assert isinstance(polygons.gt_masks, PolygonMasks)
    annotations = [_annotation(segmentation=s) for s in ([SQUARE], rle, bitmap)]
    masks = utils.annotations_to_instances(annotations, (40, 60), mask_format="bitmask").gt_masks
    assert isinstance(masks, BitMasks)
    assert masks.tensor.sum(dim=(1, 2)).tolist() == [400, 400, 400]
    with pytest.raises(ValueError, match="polygon"):
        utils.annotations_to_instances(annotations, (40, 60))
    with pytest.raises(ValueError, match=r"BitMasks|bitmap"):
        utils.annotations_to_instances([_annotation(segmentation="x")], (40, 60), mask_format="bitmask")


def test_no_annotations() -> None:
    instances = utils.annotations_to_instances([], (40, 60))
    assert instances.gt_boxes.tensor.shape == (0, 4)
    assert len(instances) == len(instances.gt_classes) == 0


def test_filtering_empty_objects() -> None:
    boxes = Boxes([[0, 0, 5, 5], [0, 0, 0, 5], [0, 0, 9, 9]])
    instances = Instances((9, 9), gt_boxes=boxes, gt_classes=torch.arange(3))
    assert utils.filter_empty_instances(instances).gt_classes.tolist() == [0, 2]
    assert utils.filter_empty_instances(instances, box_threshold=6).gt_classes.tolist() == [2]
    instances.gt_masks = BitMasks(torch.tensor([0, 1, 1])[:, None, None].expand(3, 9, 9))
    kept, mask = utils.filter_empty_instances(instances, return_mask=True)
    assert kept.gt_classes.tolist() == [2]
    assert mask.tolist() == [False, False, True]
    assert utils.filter_empty_instances(instances, by_box=False).gt_classes.tolist() == [1, 2]
    with pytest.raises(AssertionError):
        utils.filter_empty_instances(instances, by_box=False, by_mask=False)


@pytest.fixture
def catalog_names():
    yield ["contract_meta_a", "contract_meta_b"]
    for name in ("contract_meta_a", "contract_meta_b"):
        MetadataCatalog.pop(name, None)


def test_metadata_helpers(catalog_names) -> None:
    counts = [{"id": 2, "image_count": 4}, {"id": 1, "image_count": 9}]
    for name in catalog_names:
        MetadataCatalog.get(name).set(class_image_count=counts, thing_classes=[name])
    assert utils.get_fed_loss_cls_weights(catalog_names, 0.5).tolist() == [3, 2]
    assert utils.get_fed_loss_cls_weights(catalog_names[0]).tolist() == [9, 4]
    utils.check_metadata_consistency("class_image_count", catalog_names)
    with pytest.raises(ValueError, match="thing_classes"):
        utils.check_metadata_consistency("thing_classes", catalog_names)


def _record(image_file: str) -> dict:
    annotations = [
        _annotation(segmentation=[SQUARE], keypoints=[1, 2, 2]),
        _annotation(iscrowd=1),
        _annotation(bbox=[10.0, 10.0, 0.0, 5.0], segmentation=[SQUARE]),
    ]
    return {"file_name": image_file, "height": 40, "width": 60, "image_id": 1, "annotations": annotations}


def test_mapper_for_training(image_file) -> None:
    record = _record(image_file)
    mapper = DatasetMapper(True, augmentations=[T.HFlipTransform(60)], image_format="BGR")
    mapped = mapper(record)
    assert len(record["annotations"]) == 3  # untouched
    assert len(record["annotations"][0]["segmentation"]) == 1
    assert mapped["image"].dtype == torch.uint8
    assert np.array_equal(mapped["image"].numpy(), PIXELS[:, ::-1, ::-1].transpose(2, 0, 1))
    assert "annotations" not in mapped
    instances = mapped["instances"]
    assert instances.gt_boxes.tensor.tolist() == [[30, 10, 50, 30]]
    assert set(instances.get_fields()) == {"gt_boxes", "gt_classes"}


@pytest.mark.parametrize("mask_format", ["polygon", "bitmask"])
def test_mapper_with_masks(image_file, mask_format) -> None:
    record = _record(image_file)
    record["annotations"] = [a for a in record["annotations"] if "segmentation" in a]
    mapper = DatasetMapper(
        True,
        augmentations=[T.ResizeTransform(40, 60, 20, 30)],
        image_format="RGB",
        use_instance_mask=True,
        instance_mask_format=mask_format,
        recompute_boxes=True,
    )
    instances = mapper(record)["instances"]
    assert instances.gt_boxes.tensor.tolist() == [[5, 5, 15, 15]] * 2  # the second box comes from its mask
    with pytest.raises(AssertionError):
        DatasetMapper(True, augmentations=[], image_format="RGB", recompute_boxes=True)


def test_mapper_for_inference(image_file) -> None:
    mapper = DatasetMapper(False, augmentations=[T.ResizeShortestEdge(20)], image_format="L")
    mapped = mapper(_record(image_file))
    assert mapped["image"].shape == (1, 20, 30)
    assert (mapped["height"], mapped["width"]) == (40, 60)
    assert not {"annotations", "instances"} & mapped.keys()


def test_mapper_with_semantic_labels(image_file, tmp_path) -> None:
    labels = np.zeros((40, 60), dtype=np.uint8)
    labels[:, :30] = 7
    Image.fromarray(labels).save(tmp_path / "labels.png")
    record = {"file_name": image_file, "sem_seg_file_name": str(tmp_path / "labels.png")}
    mapped = DatasetMapper(True, augmentations=[T.HFlipTransform(60)], image_format="RGB")(record)
    assert mapped["sem_seg"].dtype == torch.int64
    assert np.array_equal(mapped["sem_seg"].numpy(), labels[:, ::-1])
    assert "instances" not in mapped


def test_mapper_checks_the_size(image_file) -> None:
    mapper = DatasetMapper(True, augmentations=[], image_format="RGB")
    with pytest.raises(utils.SizeMismatchError):
        mapper(_record(image_file) | {"width": 61})


@lite_only("integer polygons are rounded down by every transform")
def test_integer_polygons_keep_fractions() -> None:
    square = [int(x) for x in SQUARE]
    moved = utils.transform_instance_annotations(
        _annotation(segmentation=[square]), T.ResizeTransform(40, 60, 20, 45), (20, 45)
    )
    assert moved["segmentation"][0].tolist() == [7.5, 5, 22.5, 5, 22.5, 15, 7.5, 15]


@lite_only("has keypoint targets and precomputed proposals")
@pytest.mark.parametrize("option", [{"use_keypoint": True}, {"precomputed_proposal_topk": 3}])
def test_what_the_mapper_leaves_out(option) -> None:
    with pytest.raises(NotImplementedError, match="subset"):
        DatasetMapper(True, augmentations=[], image_format="RGB", **option)
