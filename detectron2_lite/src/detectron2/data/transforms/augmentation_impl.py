"""Geometric augmentations. Each call draws from numpy's global generator in a fixed order."""

# The global generator is the contract: one seed gives the same data on both hosts.
# ruff: noqa: NPY002, F403
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
from fvcore.transforms.transform import HFlipTransform, NoOpTransform, Transform, VFlipTransform
from PIL import Image

from . import _color, _crop
from ._color import *
from ._crop import *
from .augmentation import Augmentation, _transform_to_aug
from .transform import ExtentTransform, ResizeTransform, RotationTransform

__all__ = _color.__all__ + _crop.__all__
__all__ += ["RandomApply", "RandomExtent", "RandomFlip", "RandomResize", "RandomRotation"]
__all__ += ["Resize", "ResizeScale", "ResizeShortestEdge"]


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
