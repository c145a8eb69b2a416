"""Geometric augmentations. Each call draws from numpy's global generator in a fixed order."""

# The global generator is the contract: one seed gives the same data on both hosts.
# ruff: noqa: NPY002
from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
from detectron2.structures import Boxes, pairwise_iou
from fvcore.transforms.transform import (
    CropTransform,
    HFlipTransform,
    NoOpTransform,
    PadTransform,
    Transform,
    TransformList,
    VFlipTransform,
)
from PIL import Image

from ._color import RandomBrightness, RandomContrast, RandomLighting, RandomSaturation
from .augmentation import Augmentation, _transform_to_aug
from .transform import ExtentTransform, ResizeTransform, RotationTransform

__all__ = [
    "FixedSizeCrop",
    "MinIoURandomCrop",
    "RandomApply",
    "RandomBrightness",
    "RandomContrast",
    "RandomCrop",
    "RandomCrop_CategoryAreaConstraint",
    "RandomExtent",
    "RandomFlip",
    "RandomLighting",
    "RandomResize",
    "RandomRotation",
    "RandomSaturation",
    "Resize",
    "ResizeScale",
    "ResizeShortestEdge",
]


def _check_sample_style(sample_style: str) -> bool:
    assert sample_style in ("range", "choice"), f"sample_style is 'range' or 'choice', got {sample_style!r}"
    return sample_style == "range"


class RandomApply(Augmentation):
    """Apply a transform or an augmentation with probability ``prob``."""

    def __init__(self, tfm_or_aug: Transform | Augmentation, prob: float = 0.5) -> None:
        assert 0.0 <= prob <= 1.0, f"prob must be in [0, 1], got {prob}"
        self.aug = _transform_to_aug(tfm_or_aug)
        self.prob = prob

    def get_transform(self, *args: Any) -> Transform:
        return self.aug.get_transform(*args) if self._rand_range() < self.prob else NoOpTransform()

    def __call__(self, aug_input: Any) -> Transform:
        return self.aug(aug_input) if self._rand_range() < self.prob else NoOpTransform()


class RandomFlip(Augmentation):
    """Mirror the image left to right, or upside down, with probability ``prob``."""

    def __init__(self, prob: float = 0.5, *, horizontal: bool = True, vertical: bool = False) -> None:
        """
        Raises:
            ValueError: not exactly one direction.
        """
        if horizontal == vertical:
            raise ValueError("RandomFlip flips either horizontally or vertically; use two of them for both")
        self._init(locals())

    def get_transform(self, image: np.ndarray) -> Transform:
        height, width = image.shape[:2]
        if self._rand_range() >= self.prob:
            return NoOpTransform()
        return HFlipTransform(width) if self.horizontal else VFlipTransform(height)


class Resize(Augmentation):
    """Resize to a fixed (height, width), or to a square of an int side."""

    def __init__(self, shape: int | Sequence[int], interp: int = Image.BILINEAR) -> None:
        shape = (shape, shape) if isinstance(shape, int) else tuple(shape)
        self._init(locals())

    def get_transform(self, image: np.ndarray) -> Transform:
        return ResizeTransform(*image.shape[:2], *self.shape, self.interp)


class ResizeShortestEdge(Augmentation):
    """Resize the shorter side to a drawn length, keeping the aspect ratio and a bound on the longer side."""

    def __init__(
        self,
        short_edge_length: int | Sequence[int],
        max_size: int = sys.maxsize,
        sample_style: str = "range",
        interp: int = Image.BILINEAR,
    ) -> None:
        """
        Args:
            short_edge_length: [low, high], both included, for "range"; the candidates for "choice"; or one int.
            max_size: bound on the longer side; the shorter one gives way.
            sample_style: "range" or "choice".
            interp: a Pillow filter.
        """
        self.is_range = _check_sample_style(sample_style)
        if isinstance(short_edge_length, int):
            short_edge_length = (short_edge_length, short_edge_length)
        short_edge_length = tuple(short_edge_length)
        if self.is_range:
            assert len(short_edge_length) == 2, f"sample_style='range' needs [low, high], got {short_edge_length}"
        self._init(locals())

    def get_transform(self, image: np.ndarray) -> Transform:
        height, width = image.shape[:2]
        if self.is_range:
            size = np.random.randint(self.short_edge_length[0], self.short_edge_length[1] + 1)
        else:
            size = np.random.choice(self.short_edge_length)
        if size == 0:
            return NoOpTransform()
        new_height, new_width = self.get_output_shape(height, width, size, self.max_size)
        return ResizeTransform(height, width, new_height, new_width, self.interp)

    @staticmethod
    def get_output_shape(oldh: int, oldw: int, short_edge_length: int, max_size: int) -> tuple[int, int]:
        """(height, width) of the resized image; halves round up."""
        size = short_edge_length * 1.0
        scale = size / min(oldh, oldw)
        new_h, new_w = (size, scale * oldw) if oldh < oldw else (scale * oldh, size)
        if max(new_h, new_w) > max_size:
            shrink = max_size * 1.0 / max(new_h, new_w)
            new_h, new_w = new_h * shrink, new_w * shrink
        return int(new_h + 0.5), int(new_w + 0.5)


class ResizeScale(Augmentation):
    """Large-scale jitter (Ghiasi et al., "Simple Copy-Paste", 2021): fit the image into a randomly scaled target."""

    def __init__(
        self, min_scale: float, max_scale: float, target_height: int, target_width: int, interp: int = Image.BILINEAR
    ) -> None:
        """
        Args:
            min_scale, max_scale: range of the factor on the target size.
            target_height, target_width: size at factor 1.
            interp: a Pillow filter.
        """
        self._init(locals())

    def get_transform(self, image: np.ndarray) -> Transform:
        factor = np.random.uniform(self.min_scale, self.max_scale)
        height, width = image.shape[:2]
        target_height, target_width = np.multiply((self.target_height, self.target_width), factor)
        scale = np.minimum(target_height / height, target_width / width)
        new_height, new_width = np.round(np.multiply((height, width), scale)).astype(int).tolist()
        return ResizeTransform(height, width, new_height, new_width, self.interp)


class RandomResize(Augmentation):
    """Resize to a (height, width) drawn from a list."""

    def __init__(self, shape_list: Sequence[tuple[int, int]], interp: int = Image.BILINEAR) -> None:
        self._init(locals())

    def get_transform(self, image: np.ndarray) -> Transform:
        new_height, new_width = self.shape_list[np.random.randint(low=0, high=len(self.shape_list))]
        return ResizeTransform(*image.shape[:2], new_height, new_width, self.interp)


class RandomRotation(Augmentation):
    """Rotate counter-clockwise by a drawn angle."""

    def __init__(
        self,
        angle: float | Sequence[float],
        expand: bool = True,
        center: Sequence | None = None,
        sample_style: str = "range",
        interp: int | None = None,
    ) -> None:
        """
        Args:
            angle: degrees: [low, high] for "range", the candidates for "choice", or one number.
            expand: see :class:`RotationTransform`.
            center: relative (x, y) in [0, 1], or two such corners of a range, or the candidates; default the middle.
            sample_style: "range" or "choice".
            interp: an OpenCV filter.
        """
        self.is_range = _check_sample_style(sample_style)
        if isinstance(angle, (float, int)):
            angle = (angle, angle)
        if center is not None and isinstance(center[0], (float, int)):
            center = (center, center)
        self._init(locals())

    def get_transform(self, image: np.ndarray) -> Transform:
        height, width = image.shape[:2]
        center = None
        if self.is_range:
            angle = np.random.uniform(self.angle[0], self.angle[1])
            if self.center is not None:
                low, high = self.center
                center = (np.random.uniform(low[0], high[0]), np.random.uniform(low[1], high[1]))
        else:
            angle = np.random.choice(self.angle)
            if self.center is not None:
                center = self.center[np.random.choice(len(self.center))]
        if center is not None:
            center = (width * center[0], height * center[1])
        if angle % 360 == 0:
            return NoOpTransform()
        return RotationTransform(height, width, angle, expand=self.expand, center=center, interp=self.interp)


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
        height, width = sem_seg.shape
        for _ in range(10):
            crop_height, crop_width = self.crop_aug.get_crop_size((height, width))
            y0 = np.random.randint(height - crop_height + 1)
            x0 = np.random.randint(width - crop_width + 1)
            crop = sem_seg[y0 : y0 + crop_height, x0 : x0 + crop_width]
            labels, areas = np.unique(crop, return_counts=True)
            if self.ignored_category is not None:
                areas = areas[labels != self.ignored_category]
            if len(areas) > 1 and areas.max() < areas.sum() * self.single_category_max_area:
                break
        return CropTransform(x0, y0, crop_width, crop_height)


class RandomExtent(Augmentation):
    """Scale and shift the image as seen through a window; what lies outside is black."""

    def __init__(self, scale_range: tuple[float, float], shift_range: tuple[float, float]) -> None:
        """
        Args:
            scale_range: (low, high) of the window's size over the image's.
            shift_range: largest total shift along x and y over the image's size.
        """
        self._init(locals())

    def get_transform(self, image: np.ndarray) -> Transform:
        height, width = image.shape[:2]
        window = np.array([-0.5 * width, -0.5 * height, 0.5 * width, 0.5 * height])
        window *= np.random.uniform(self.scale_range[0], self.scale_range[1])
        window[0::2] += self.shift_range[0] * width * (np.random.rand() - 0.5)
        window[1::2] += self.shift_range[1] * height * (np.random.rand() - 0.5)
        window[0::2] += 0.5 * width
        window[1::2] += 0.5 * height
        size = (int(window[3] - window[1]), int(window[2] - window[0]))
        return ExtentTransform(src_rect=tuple(window), output_size=size)


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
