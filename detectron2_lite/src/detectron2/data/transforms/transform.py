"""Deterministic image transforms that fvcore lacks. Images are (H, W) or (H, W, C), coordinates (N, 2) of (x, y)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from fvcore.transforms.transform import CropTransform, NoOpTransform, Transform, TransformList
from PIL import Image

__all__ = ["ColorTransform", "ExtentTransform", "PILColorTransform", "ResizeTransform", "RotationTransform"]

_TORCH_MODES = {Image.NEAREST: "nearest", Image.BILINEAR: "bilinear", Image.BICUBIC: "bicubic"}


def _with_pil(image: np.ndarray, operation: Callable[[Image.Image], Image.Image]) -> np.ndarray:
    """Apply a Pillow operation; (H, W, 1) is grey to Pillow and keeps its third axis."""
    grey = image.ndim == 3 and image.shape[2] == 1
    result = np.asarray(operation(Image.fromarray(image[:, :, 0] if grey else image)))
    return result[:, :, None] if grey else result


class ExtentTransform(Transform):
    """Cut a rectangle out of the image, also beyond its border, and scale it to the output size."""

    def __init__(
        self,
        src_rect: tuple[float, float, float, float],
        output_size: tuple[int, int],
        interp: int = Image.BILINEAR,
        fill: int = 0,
    ) -> None:
        """
        Args:
            src_rect: (x0, y0, x1, y1) in the source image.
            output_size: (height, width).
            interp: a Pillow filter.
            fill: value outside the source image.
        """
        super().__init__()
        self._set_attributes(locals())

    def apply_image(self, img: np.ndarray, interp: int | None = None) -> np.ndarray:
        """Sample the rectangle."""
        height, width = self.output_size
        resample = self.interp if interp is None else interp

        def cut_out(pil: Image.Image) -> Image.Image:
            fill = (self.fill,) * len(pil.getbands())
            return pil.transform((width, height), Image.EXTENT, self.src_rect, resample, fillcolor=fill)

        return _with_pil(img, cut_out)

    def apply_coords(self, coords: np.ndarray) -> np.ndarray:
        """Map (N, 2) points into the output."""
        height, width = self.output_size
        x0, y0, x1, y1 = self.src_rect
        moved = coords.astype(np.float32)
        for axis, (low, high, size) in enumerate(((x0, x1, width), (y0, y1, height))):
            moved[:, axis] -= 0.5 * (low + high)
            moved[:, axis] *= size / (high - low)
            moved[:, axis] += 0.5 * size
        return moved

    def apply_segmentation(self, segmentation: np.ndarray) -> np.ndarray:
        """As the image, with the nearest label."""
        return self.apply_image(segmentation, interp=Image.NEAREST)


class ResizeTransform(Transform):
    """Resize: uint8 by Pillow, which antialiases when shrinking, other types by ``F.interpolate``, which does not."""

    def __init__(self, h: int, w: int, new_h: int, new_w: int, interp: int | None = None) -> None:
        """
        Args:
            h, w: size of the image.
            new_h, new_w: wanted size.
            interp: a Pillow filter; default bilinear.
        """
        super().__init__()
        interp = Image.BILINEAR if interp is None else interp
        self._set_attributes(locals())

    def apply_image(self, img: np.ndarray, interp: int | None = None) -> np.ndarray:
        """Resize an image of the announced size.

        Raises:
            AssertionError: another size, or more than four axes.
        """
        assert img.shape[:2] == (self.h, self.w), f"Expected an image of {(self.h, self.w)}, got {img.shape[:2]}"
        assert img.ndim <= 4, f"Images have up to four axes, got shape {img.shape}"
        interp = self.interp if interp is None else interp
        if img.dtype == np.uint8:
            return _with_pil(img, lambda pil: pil.resize((self.new_w, self.new_h), interp))
        mode = _TORCH_MODES[interp]
        tail = img.shape[2:]
        nchw = torch.from_numpy(np.ascontiguousarray(img)).view(self.h, self.w, -1).permute(2, 0, 1)[None]
        align_corners = None if mode == "nearest" else False
        resized = F.interpolate(nchw, (self.new_h, self.new_w), mode=mode, align_corners=align_corners)
        return resized[0].permute(1, 2, 0).reshape(self.new_h, self.new_w, *tail).numpy()

    def apply_coords(self, coords: np.ndarray) -> np.ndarray:
        """Scale (N, 2) points, in place."""
        coords[:, 0] = coords[:, 0] * (self.new_w * 1.0 / self.w)
        coords[:, 1] = coords[:, 1] * (self.new_h * 1.0 / self.h)
        return coords

    def apply_segmentation(self, segmentation: np.ndarray) -> np.ndarray:
        """As the image, with the nearest label."""
        return self.apply_image(segmentation, interp=Image.NEAREST)

    def inverse(self) -> ResizeTransform:
        """Resize back."""
        return ResizeTransform(self.new_h, self.new_w, self.h, self.w, self.interp)


class RotationTransform(Transform):
    """Rotate counter-clockwise. Images need OpenCV (``pip install opencv-python-headless``), coordinates do not."""

    def __init__(
        self,
        h: int,
        w: int,
        angle: float,
        expand: bool = True,
        center: tuple[float, float] | None = None,
        interp: int | None = None,
    ) -> None:
        """
        Args:
            h, w: size of the image.
            angle: degrees.
            expand: enlarge the output so that it holds the whole rotated image.
            center: (x, y) of the rotation, default the image's centre; without effect if ``expand``.
            interp: an OpenCV filter; default linear.
        """
        super().__init__()
        image_center = np.array((w / 2, h / 2))
        center = image_center if center is None else center
        bound_w, bound_h = w, h
        if expand:
            cos, sin = abs(np.cos(np.deg2rad(angle))), abs(np.sin(np.deg2rad(angle)))
            bound_w, bound_h = np.rint([h * sin + w * cos, h * cos + w * sin]).astype(int)
        self._set_attributes(locals())
        self.rm_coords = self.create_rotation_matrix()
        self.rm_image = self.create_rotation_matrix(offset=-0.5)  # OpenCV puts pixel centres on integers

    def _is_identity(self, data: Any) -> bool:
        return len(data) == 0 or self.angle % 360 == 0

    def apply_image(self, img: np.ndarray, interp: int | None = None) -> np.ndarray:
        """Rotate (H, W) or (H, W, C)."""
        if self._is_identity(img):
            return img
        try:
            import cv2
        except ImportError as e:
            raise ImportError("Rotating images needs OpenCV: pip install opencv-python-headless") from e
        assert img.shape[:2] == (self.h, self.w), f"Expected an image of {(self.h, self.w)}, got {img.shape[:2]}"
        flags = next(i for i in (interp, self.interp, cv2.INTER_LINEAR) if i is not None)
        return cv2.warpAffine(img, self.rm_image, (int(self.bound_w), int(self.bound_h)), flags=flags)

    def apply_coords(self, coords: np.ndarray) -> np.ndarray:
        """Rotate (N, 2) points."""
        coords = np.asarray(coords, dtype=float)
        if self._is_identity(coords):
            return coords
        return coords @ self.rm_coords[:, :2].T + self.rm_coords[:, 2]

    def apply_segmentation(self, segmentation: np.ndarray) -> np.ndarray:
        """As the image, with the nearest label."""
        return self.apply_image(segmentation, interp=0)  # cv2.INTER_NEAREST

    def create_rotation_matrix(self, offset: float = 0) -> np.ndarray:
        """The (2, 3) affine map, for coordinates shifted by ``offset``."""
        cos, sin = np.cos(np.deg2rad(self.angle)), np.sin(np.deg2rad(self.angle))
        rotation = np.array([[cos, sin], [-sin, cos]])  # y points down
        center = np.asarray(self.center, dtype=float) + offset
        matrix = np.concatenate((rotation, (center - rotation @ center)[:, None]), axis=1)
        if self.expand:  # carry the image's centre to the centre of the output
            target = np.array([self.bound_w / 2, self.bound_h / 2])
            matrix[:, 2] = target + offset - rotation @ (self.image_center + offset)
        return matrix

    def inverse(self) -> TransformList:
        """Rotate back with expansion, then crop.

        Raises:
            NotImplementedError: made without ``expand``, which loses part of the image.
        """
        if not self.expand:
            raise NotImplementedError("A rotation with expand=False cannot be inverted")
        back = RotationTransform(self.bound_h, self.bound_w, -self.angle, True, None, self.interp)
        crop = CropTransform((back.bound_w - self.w) // 2, (back.bound_h - self.h) // 2, self.w, self.h)
        return TransformList([back, crop])


class ColorTransform(Transform):
    """Change colours by a function of the image array; geometry stays."""

    def __init__(self, op: Callable[[np.ndarray], np.ndarray]) -> None:
        """
        Raises:
            ValueError: ``op`` is not callable.
        """
        if not callable(op):
            raise ValueError(f"op must be callable, got {type(op)}")
        super().__init__()
        self._set_attributes(locals())

    def apply_image(self, img: np.ndarray) -> np.ndarray:
        """Apply the function."""
        return self.op(img)

    def apply_coords(self, coords: np.ndarray) -> np.ndarray:
        """Points do not move."""
        return coords

    def apply_segmentation(self, segmentation: np.ndarray) -> np.ndarray:
        """Labels do not change."""
        return segmentation

    def inverse(self) -> Transform:
        """Colours are not restored."""
        return NoOpTransform()


class PILColorTransform(ColorTransform):
    """A colour change by a function of a Pillow image."""

    def apply_image(self, img: np.ndarray) -> np.ndarray:
        """Apply the function to the Pillow image."""
        return np.asarray(self.op(Image.fromarray(img)))


def _clip_polygon(polygon: np.ndarray, x0: float, y0: float, x1: float, y1: float) -> np.ndarray:
    """Sutherland-Hodgman clipping of (N, 2) points to a rectangle.

    Parts of a concave polygon that the rectangle separates stay joined along its border, which adds no area.
    """
    for axis, bound, sign in ((0, x0, 1), (0, x1, -1), (1, y0, 1), (1, y1, -1)):
        if len(polygon) == 0:
            break
        distance = sign * (polygon[:, axis] - bound)
        previous, previous_distance = np.roll(polygon, 1, axis=0), np.roll(distance, 1)
        points = []
        for start, end, d0, d1 in zip(previous, polygon, previous_distance, distance, strict=True):
            if (d0 < 0) != (d1 < 0):
                points.append(start + (end - start) * (d0 / (d0 - d1)))
            if d1 >= 0:
                points.append(end)
        polygon = np.array(points).reshape(-1, 2)
    return polygon


def _crop_polygons(transform: CropTransform, polygons: list) -> list:
    x0, y0 = transform.x0, transform.y0
    cropped = []
    for polygon in polygons:
        points = np.asarray(polygon, dtype=np.float64).reshape(-1, 2)
        points = _clip_polygon(points, x0, y0, x0 + transform.w, y0 + transform.h)
        x, y = points.T
        twice_area = x @ np.roll(y, -1) - y @ np.roll(x, -1)
        if len(points) >= 3 and twice_area != 0:  # oriented as shapely does it
            cropped.append((points if twice_area < 0 else points[::-1]) - [x0, y0])
    return cropped


CropTransform.register_type("polygons", _crop_polygons)  # fvcore's own needs shapely, which it does not declare
