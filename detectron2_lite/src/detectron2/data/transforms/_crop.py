"""Augmentations that crop. Each call draws from numpy's global generator in a fixed order."""

# The global generator is the contract: one seed gives the same data on both hosts.
# ruff: noqa: NPY002
from collections.abc import Sequence

import numpy as np
from detectron2.structures import Boxes, pairwise_iou
from fvcore.transforms.transform import CropTransform, NoOpTransform, PadTransform, Transform, TransformList

from .augmentation import Augmentation

__all__ = ["FixedSizeCrop", "MinIoURandomCrop", "RandomCrop", "RandomCrop_CategoryAreaConstraint"]


class FixedSizeCrop(Augmentation):
    """Crop at a random place to at most ``crop_size`` and pad what is smaller on the right and bottom."""

    def __init__(
        self, crop_size: Sequence[int], pad: bool = True, pad_value: float = 128.0, seg_pad_value: int = 255
    ) -> None:
        """
        Args:
            crop_size: (height, width).
            pad: pad to ``crop_size``.
            pad_value, seg_pad_value: padding of the image and of its labels.
        """
        crop_size = tuple(crop_size)
        self._init(locals())

    def get_transform(self, image: np.ndarray) -> TransformList:
        input_size = np.array(image.shape[:2])
        room = np.maximum(input_size - self.crop_size, 0)
        y0, x0 = np.round(room * np.random.uniform(0.0, 1.0)).astype(int).tolist()
        height, width = self.crop_size
        transforms = [CropTransform(x0, y0, width, height, *image.shape[1::-1])]
        if self.pad:
            bottom, right = np.maximum(self.crop_size - input_size, 0).tolist()
            kept_height, kept_width = np.minimum(input_size, self.crop_size).tolist()
            pad_values = (self.pad_value, self.seg_pad_value)
            transforms.append(PadTransform(0, 0, right, bottom, kept_width, kept_height, *pad_values))
        return TransformList(transforms)


class RandomCrop(Augmentation):
    """Crop a drawn rectangle."""

    def __init__(self, crop_type: str, crop_size: Sequence[float]) -> None:
        """
        Args:
            crop_type: "relative": ``crop_size`` (height, width) is a fraction of the image; "relative_range": at least
                that fraction; "absolute": pixels, at most the image; "absolute_range": height and width are drawn
                independently from [crop_size[0], crop_size[1]], at most the image.
            crop_size: two numbers.
        """
        known = ("relative_range", "relative", "absolute", "absolute_range")
        assert crop_type in known, f"crop_type is one of {known}, got {crop_type!r}"
        crop_size = tuple(crop_size)
        if crop_type == "absolute_range":
            assert crop_size[0] <= crop_size[1], f"'absolute_range' needs (low, high), got {crop_size}"
        self._init(locals())

    def get_transform(self, image: np.ndarray) -> Transform:
        height, width = image.shape[:2]
        crop_height, crop_width = self.get_crop_size((height, width))
        fits = crop_height <= height and crop_width <= width
        assert fits, f"{self} does not fit into an image of {(height, width)}"
        y0 = np.random.randint(height - crop_height + 1)
        x0 = np.random.randint(width - crop_width + 1)
        return CropTransform(x0, y0, crop_width, crop_height)

    def get_crop_size(self, image_size: tuple[int, int]) -> tuple[int, int]:
        """Draw (height, width) in pixels for an image of ``image_size`` = (height, width)."""
        height, width = image_size
        first, second = self.crop_size
        if self.crop_type == "absolute":
            return min(first, height), min(second, width)
        if self.crop_type == "absolute_range":
            crop_height = np.random.randint(min(height, first), min(height, second) + 1)
            return crop_height, np.random.randint(min(width, first), min(width, second) + 1)
        if self.crop_type == "relative_range":
            low = np.asarray(self.crop_size, dtype=np.float32)
            first, second = low + np.random.rand(2) * (1 - low)
        return int(height * first + 0.5), int(width * second + 0.5)


class RandomCrop_CategoryAreaConstraint(Augmentation):
    """A random crop in which no category covers more than a given share; the tenth try is taken anyway."""

    def __init__(
        self,
        crop_type: str,
        crop_size: Sequence[float],
        single_category_max_area: float = 1.0,
        ignored_category: int | None = None,
    ) -> None:
        """
        Args:
            crop_type, crop_size: see :class:`RandomCrop`.
            single_category_max_area: largest share of the labelled area for one category; 1 sets no bound.
            ignored_category: label that does not count.
        """
        self.crop_aug = RandomCrop(crop_type, crop_size)
        self._init(locals())

    def get_transform(self, image: np.ndarray, sem_seg: np.ndarray) -> Transform:
        if self.single_category_max_area >= 1.0:
            return self.crop_aug.get_transform(image)
        for _ in range(10):
            crop = self.crop_aug.get_transform(sem_seg)
            labels, areas = np.unique(crop.apply_segmentation(sem_seg), return_counts=True)
            if self.ignored_category is not None:
                areas = areas[labels != self.ignored_category]
            if len(areas) > 1 and areas.max() < areas.sum() * self.single_category_max_area:
                break
        return crop


class MinIoURandomCrop(Augmentation):
    """Crop so that every box overlaps the crop by a drawn minimum (Liu et al., "SSD", 2016, section 2.2)."""

    def __init__(
        self,
        min_ious: Sequence[float] = (0.1, 0.3, 0.5, 0.7, 0.9),
        min_crop_size: float = 0.3,
        mode_trials: int = 1000,
        crop_trials: int = 50,
    ) -> None:
        """
        Args:
            min_ious: candidates of the least IoU, besides "no crop" and "any crop".
            min_crop_size: least share of each side.
            mode_trials, crop_trials: tries; after all of them the image stays whole.
        """
        self.sample_mode = (1, *min_ious, 0)
        self._init(locals())

    def get_transform(self, image: np.ndarray, boxes: np.ndarray | None) -> Transform:
        if boxes is None:
            return NoOpTransform()
        height, width = image.shape[:2]
        for _ in range(self.mode_trials):
            min_iou = np.random.choice(self.sample_mode)
            if min_iou == 1:
                return NoOpTransform()
            for _ in range(self.crop_trials):
                new_w = np.random.uniform(self.min_crop_size * width, width)
                new_h = np.random.uniform(self.min_crop_size * height, height)
                if not 0.5 <= new_h / new_w <= 2:
                    continue
                # one argument is numpy's *low*, with high = 1: kept, so that seeds give upstream's crops
                left, top = np.random.uniform(width - new_w), np.random.uniform(height - new_h)
                patch = np.array((int(left), int(top), int(left + new_w), int(top + new_h)))
                if _keeps_boxes(patch, boxes, min_iou):
                    return CropTransform(int(left), int(top), int(new_w), int(new_h))
        return NoOpTransform()


def _keeps_boxes(patch: np.ndarray, boxes: np.ndarray, min_iou: float) -> bool:
    if (patch[2:] == patch[:2]).any():
        return False
    if len(boxes) == 0:
        return True
    if pairwise_iou(Boxes(patch[None]), Boxes(boxes)).min() < min_iou:
        return False
    centers = (boxes[:, :2] + boxes[:, 2:]) / 2
    return bool(((centers > patch[:2]) & (centers < patch[2:])).all(axis=1).any())
