"""Masks to draw, in whatever form they come."""

import numpy as np
import pycocotools.mask as coco_mask
from contourpy import FillType, contour_generator
from detectron2.structures import polygons_to_bitmask


class GenericMask:
    """One mask, given as RLE, polygons or bitmap, available as bitmap and polygons.

    Attributes:
        mask: uint8 (H, W).
        polygons: flat float arrays [x0, y0, x1, y1, ...] of the outlines, those of holes included.
        has_holes: whether the bitmap has holes; polygons as input have none.
    """

    def __init__(self, mask_or_polygons: dict | list | np.ndarray, height: int, width: int) -> None:
        """
        Args:
            mask_or_polygons: COCO RLE (compressed or not), list of polygons, or array (height, width).
            height, width: image size.

        Raises:
            ValueError: another type, or another size.
        """
        self.height = height
        self.width = width
        self._mask: np.ndarray | None = None
        self._polygons: list[np.ndarray] | None = None
        self._has_holes: bool | None = None
        if isinstance(mask_or_polygons, dict):
            self._mask = _decode(mask_or_polygons)
        elif isinstance(mask_or_polygons, list):
            self._polygons = [np.asarray(p).reshape(-1) for p in mask_or_polygons]
            self._has_holes = False
        elif isinstance(mask_or_polygons, np.ndarray):
            self._mask = mask_or_polygons.astype(np.uint8)
        else:
            raise ValueError(f"A mask is an RLE dict, a list of polygons or an array, got {type(mask_or_polygons)}")
        if self._mask is not None and self._mask.shape != (height, width):
            raise ValueError(f"Mask of shape {self._mask.shape} in an image of {(height, width)}")

    @property
    def mask(self) -> np.ndarray:
        if self._mask is None:
            self._mask = self.polygons_to_mask(self._polygons)
        return self._mask

    @property
    def polygons(self) -> list[np.ndarray]:
        if self._polygons is None:
            self._polygons, self._has_holes = self.mask_to_polygons(self._mask)
        return self._polygons

    @property
    def has_holes(self) -> bool:
        if self._has_holes is None:
            self._polygons, self._has_holes = self.mask_to_polygons(self._mask)
        return self._has_holes

    def mask_to_polygons(self, mask: np.ndarray) -> tuple[list[np.ndarray], bool]:
        """The outlines of a bitmap, halfway between its pixels and the others, and whether it has holes."""
        padded = np.pad(mask.astype(float), 1)  # outlines close at the border of the image
        generator = contour_generator(z=padded, fill_type=FillType.OuterOffset)
        polygons, has_holes = [], False
        for points, offsets in zip(*generator.filled(0.5, 2), strict=True):
            has_holes |= len(offsets) > 2
            parts = np.split(points[:, :2] - 0.5, offsets[1:-1])  # pixel i covers [i, i + 1]
            polygons += [part[:-1].reshape(-1) for part in parts]  # contourpy repeats the first point
        return polygons, has_holes

    def polygons_to_mask(self, polygons: list[np.ndarray]) -> np.ndarray:
        """Rasterise, as COCO does."""
        return polygons_to_bitmask(polygons, self.height, self.width).astype(np.uint8)

    def area(self) -> int:
        """Pixels of the bitmap."""
        return self.mask.sum()

    def bbox(self) -> np.ndarray:
        """Tight box (x0, y0, x1, y1) in pixels; zeros for an empty mask."""
        rows, columns = np.nonzero(self.mask)
        if len(rows) == 0:
            return np.zeros(4)
        return np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1], dtype=float)


def _decode(rle: dict) -> np.ndarray:
    if isinstance(rle["counts"], list):
        rle = coco_mask.frPyObjects(rle, *rle["size"])
    return coco_mask.decode(rle)
