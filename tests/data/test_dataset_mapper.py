from __future__ import annotations

import logging

import detectron2.data.transforms as T
import numpy as np
import pytest
import torch
from coco_files import DATA_CONFIGS
from detectron2.config import LazyConfig, instantiate
from detectron2.data import DatasetMapper
from detectron2.data.detection_utils import SizeMismatchError
from detectron2.structures import BoxMode
from PIL import Image

from detrex.data import DetrDatasetMapper, read_image


def record(path, boxes, *, height=60, width=80, **extra):
    annotations = [
        {"bbox": b, "bbox_mode": BoxMode.XYWH_ABS, "category_id": i % 3, "iscrowd": 0, **extra}
        for i, b in enumerate(boxes)
    ]
    return {"file_name": str(path), "height": height, "width": width, "image_id": 1, "annotations": annotations}


def seeded(mapper, item, seed):
    np.random.seed(seed)  # noqa: NPY002  the generator that detectron2's augmentations draw from
    return mapper(item)


def test_inference_sample(folder):
    mapper = DetrDatasetMapper(augmentation=[T.ResizeShortestEdge(30, 1000)], is_train=False)
    item = record(folder / "0.png", [[1, 2, 3, 4]])
    sample = mapper(item)
    assert sample["image"].shape == (3, 30, 40)
    assert sample["image"].dtype == torch.uint8
    assert (sample["height"], sample["width"]) == (60, 80)
    assert "annotations" not in sample
    assert "instances" not in sample
    assert "annotations" in item  # the record itself is not touched


def test_boxes_follow_the_image(folder):
    mapper = DetrDatasetMapper(augmentation=[T.RandomFlip(prob=1.0), T.Resize((120, 160))], is_train=True)
    instances = mapper(record(folder / "0.png", [[10, 5, 20, 30], [70, 50, 40, 40]]))["instances"]
    assert instances.image_size == (120, 160)
    assert instances.gt_boxes.tensor.tolist() == [[100, 10, 140, 70], [0, 100, 20, 120]]
    assert instances.gt_classes.tolist() == [0, 1]
    assert instances.gt_boxes.tensor.dtype == torch.float32
    assert instances.gt_classes.dtype == torch.int64


def test_same_sample_as_detectron2s_own_mapper(folder):
    augmentation = [
        T.RandomFlip(),
        T.ResizeShortestEdge((40, 50, 70), 90, "choice"),
        T.RandomCrop("relative", (0.8, 0.8)),
    ]
    ours = DetrDatasetMapper(augmentation=augmentation, is_train=True)
    theirs = DatasetMapper(is_train=True, augmentations=augmentation, image_format="RGB")
    rng = np.random.default_rng(0)
    boxes = [[*rng.uniform(0, 40, 2), *rng.uniform(1, 40, 2)] for _ in range(8)]
    for seed in range(5):
        a, b = (seeded(m, record(folder / "1.png", boxes), seed) for m in (ours, theirs))
        assert torch.equal(a["image"], b["image"])
        assert torch.equal(a["instances"].gt_boxes.tensor, b["instances"].gt_boxes.tensor)
        assert torch.equal(a["instances"].gt_classes, b["instances"].gt_classes)


@pytest.mark.parametrize("size", [(3, 3000), (3000, 3), (1, 700)])
@pytest.mark.parametrize(
    "augmentation",
    [
        [T.ResizeShortestEdge(192, 256)],
        [T.RandomFlip(prob=1.0), T.ResizeShortestEdge(20), T.RandomCrop("relative", (0.2, 0.2)), T.Resize((0, 9))],
        [T.RandomApply(T.ResizeScale(0.001, 0.001, 100, 100), prob=1.0)],
    ],
    ids=["short edge", "crop", "scale"],
)
def test_an_image_however_narrow_keeps_a_pixel(tmp_path, size, augmentation):
    height, width = size
    Image.new("RGB", (width, height)).save(tmp_path / "long.png")
    item = record(tmp_path / "long.png", [[0, 0, width, height]], height=height, width=width)
    mapper = DetrDatasetMapper(augmentation=augmentation, is_train=True)
    for seed in range(10):
        sample = seeded(mapper, item, seed)
        assert min(sample["image"].shape) >= 1
        assert sample["instances"].gt_boxes.tensor[:, 2:].tolist() == [list(sample["image"].shape[:0:-1])]
    test = DetrDatasetMapper(augmentation=augmentation[:1], is_train=False)
    assert min(test(item)["image"].shape) >= 1


def test_two_chains_half_and_half(folder):
    mapper = DetrDatasetMapper(
        augmentation=[T.Resize((10, 10))], augmentation_with_crop=[T.Resize((20, 20))], is_train=True
    )
    sizes = [seeded(mapper, record(folder / "0.png", []), seed)["image"].shape[-1] for seed in range(200)]
    assert set(sizes) == {10, 20}
    assert 70 < sizes.count(10) < 130
    assert mapper.plain is not mapper.with_crop


def test_seed_repeats_the_sample(folder):
    cfg = LazyConfig.load(str(DATA_CONFIGS / "coco_detr.py"))
    mapper = instantiate(cfg.dataloader.train.mapper)
    item = record(folder / "0.png", [[10, 5, 20, 30], [40, 20, 20, 20]])
    first, second, other = (seeded(mapper, item, seed) for seed in (7, 7, 8))
    assert torch.equal(first["image"], second["image"])
    assert torch.equal(first["instances"].gt_boxes.tensor, second["instances"].gt_boxes.tensor)
    assert not torch.equal(first["image"], other["image"])


def test_shipped_augmentation_sizes(folder):
    cfg = LazyConfig.load(str(DATA_CONFIGS / "coco_detr.py"))
    mapper = instantiate(cfg.dataloader.train.mapper)
    allowed = set(range(480, 801, 32))
    for seed in range(12):
        sample = seeded(mapper, record(folder / "0.png", [[0, 0, 80, 60]]), seed)
        height, width = sample["image"].shape[1:]
        assert max(height, width) <= 1333
        assert min(height, width) in allowed or max(height, width) == 1333
        boxes = sample["instances"].gt_boxes.tensor
        assert torch.allclose(boxes, torch.tensor([[0.0, 0.0, width, height]]), atol=1e-3)


def test_crowd_is_removed_and_empty_images_stay(folder):
    mapper = DetrDatasetMapper(augmentation=[], is_train=True)
    for item in (record(folder / "0.png", [[1, 1, 5, 5]], iscrowd=1), record(folder / "0.png", [])):
        instances = mapper(item)["instances"]
        assert len(instances) == 0
        assert instances.gt_boxes.tensor.shape == (0, 4)
        assert instances.gt_classes.dtype == torch.int64


def test_degenerate_boxes_are_counted_and_logged(folder, caplog):
    mapper = DetrDatasetMapper(augmentation=[], is_train=True)
    nan = float("nan")
    boxes = [[1, 1, 0, 5], [1, 1, 5, -2], [nan, 1, 5, 5], [200, 1, 5, 5], [2, 2, 10, 10]]
    with caplog.at_level(logging.WARNING):
        instances = mapper(record(folder / "0.png", boxes))["instances"]
    assert instances.gt_boxes.tensor.tolist() == [[2, 2, 12, 12]]
    assert mapper.num_degenerate == 4
    assert "0.png" in caplog.text
    assert "zero or negative size" in caplog.text


def test_box_cut_away_by_a_crop_disappears(folder):
    mapper = DetrDatasetMapper(augmentation=[T.CropTransform(0, 0, 40, 60)], is_train=True)
    instances = mapper(record(folder / "0.png", [[45, 10, 20, 20], [10, 10, 50, 20]]))["instances"]
    assert instances.gt_boxes.tensor.tolist() == [[10, 10, 40, 30]]
    assert instances.gt_classes.tolist() == [1]
    assert mapper.num_degenerate == 0


def test_exif_rotation_is_applied(tmp_path):
    pixels = np.zeros((20, 40, 3), dtype=np.uint8)
    pixels[:, :10] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned by 90 degrees clockwise
    Image.fromarray(pixels).save(tmp_path / "turned.png", exif=exif)
    sample = DetrDatasetMapper(augmentation=[], is_train=False)({"file_name": str(tmp_path / "turned.png")})
    assert sample["image"].shape == (3, 40, 20)
    assert (sample["height"], sample["width"]) == (40, 20)
    assert sample["image"][:, :10].min() == 255
    assert sample["image"][:, 10:].max() == 0


def test_wrong_size_and_unreadable_file_are_named(folder):
    mapper = DetrDatasetMapper(augmentation=[], is_train=True)
    with pytest.raises(SizeMismatchError, match=r"0\.png"):
        mapper(record(folder / "0.png", [], height=61))
    (folder / "broken.png").write_bytes((folder / "0.png").read_bytes()[:200])
    with pytest.raises(OSError, match=r"broken\.png"):
        mapper(record(folder / "broken.png", []))
    with pytest.raises(OSError, match=r"absent\.png"):
        mapper(record(folder / "absent.png", []))


def test_grey_and_transparent_images(tmp_path):
    for mode in ("L", "RGBA", "P"):
        Image.new(mode, (8, 6)).save(tmp_path / "x.png")
        sample = DetrDatasetMapper(augmentation=[], is_train=False)({"file_name": str(tmp_path / "x.png")})
        assert sample["image"].shape == (3, 6, 8)


def test_deep_pixels_are_refused(tmp_path):
    """Pillow's conversion to RGB turns nearly all of a 16-bit image white."""
    Image.new("I;16", (8, 6)).save(tmp_path / "x.png")
    with pytest.raises(OSError, match=r"x\.png: cannot read the image: .*I;16"):
        read_image(str(tmp_path / "x.png"))
