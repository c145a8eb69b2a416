"""Object masks as bitmaps or polygons. Shape legend: N objects, H x W image pixels."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .boxes import Boxes


def polygons_to_bitmask(polygons: list[np.ndarray], height: int, width: int) -> np.ndarray:
    """Rasterise the union of polygons as COCO does.

    Args:
        polygons: flat coordinates [x0, y0, x1, y1, ...] in pixels each; may be empty.
        height, width: image size in pixels.

    Returns:
        Boolean (height, width).
    """
    import pycocotools.mask as coco_mask

    if len(polygons) == 0:  # pycocotools refuses an empty list
        return np.zeros((height, width), dtype=bool)
    return coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(polygons, height, width))).astype(bool)


class BitMasks:
    """N boolean bitmaps of one image.

    Attributes:
        tensor: boolean (N, H, W).
        image_size: (H, W).
    """

    def __init__(self, tensor: Tensor | np.ndarray) -> None:
        tensor = torch.as_tensor(tensor).to(torch.bool)
        assert tensor.dim() == 3, f"BitMasks need shape (N, H, W), got {tuple(tensor.shape)}"
        self.image_size = tensor.shape[1:]
        self.tensor = tensor

    def to(self, *args: Any, **kwargs: Any) -> BitMasks:
        """Return the masks with ``tensor.to(...)``."""
        return BitMasks(self.tensor.to(*args, **kwargs))

    @property
    def device(self) -> torch.device:
        """Device of the tensor."""
        return self.tensor.device

    def __getitem__(self, item: Any) -> BitMasks:
        """Index by int (still (1, H, W)), slice, boolean mask or index tensor."""
        selected = self.tensor[item]
        if isinstance(item, int):
            selected = selected[None]
        assert selected.dim() == 3, f"Indexing BitMasks with {item} gives shape {tuple(selected.shape)}"
        return BitMasks(selected)

    def __iter__(self) -> Iterator[Tensor]:
        yield from self.tensor

    def __len__(self) -> int:
        return self.tensor.shape[0]

    def __repr__(self) -> str:
        return f"BitMasks(num_instances={len(self)})"

    def nonempty(self) -> Tensor:
        """Boolean (N,): the mask has a pixel."""
        return self.tensor.flatten(1).any(dim=1)

    @staticmethod
    def from_polygon_masks(polygon_masks: PolygonMasks | list[list[np.ndarray]], height: int, width: int) -> BitMasks:
        """Rasterise polygons at (height, width)."""
        polygons = polygon_masks.polygons if isinstance(polygon_masks, PolygonMasks) else polygon_masks
        bitmaps = [torch.from_numpy(polygons_to_bitmask(p, height, width)) for p in polygons]
        return BitMasks(torch.stack(bitmaps) if bitmaps else torch.empty(0, height, width, dtype=torch.bool))

    def get_bounding_boxes(self) -> Boxes:
        """Tight boxes in pixels (right and bottom edges exclusive); (0, 0, 0, 0) for an empty mask."""
        corners = []
        for along in (1, 2):  # occupied columns, then rows
            occupied = self.tensor.any(dim=along)
            size = occupied.shape[1]
            position = torch.arange(size, device=occupied.device)
            first = torch.where(occupied, position, size).amin(dim=1)
            last = torch.where(occupied, position + 1, 0).amax(dim=1)
            corners.append((torch.where(last > 0, first, 0), last))
        (x0, x1), (y0, y1) = corners
        return Boxes(torch.stack((x0, y0, x1, y1), dim=1).cpu())

    @staticmethod
    def cat(bitmasks_list: Sequence[BitMasks]) -> BitMasks:
        """Concatenate masks of the same image size."""
        return BitMasks(torch.cat([m.tensor for m in bitmasks_list]))


class PolygonMasks:
    """N objects, each a list of polygons, on the CPU.

    Attributes:
        polygons: per object, a list of flat float64 arrays [x0, y0, x1, y1, ...] in pixels.
    """

    def __init__(self, polygons: list[list[Tensor | np.ndarray | list[float]]]) -> None:
        """
        Raises:
            ValueError: not a list of lists, or a polygon with an odd number or fewer than 6 coordinates.
        """
        if not isinstance(polygons, list):
            raise ValueError(f"PolygonMasks needs a list (objects) of lists (polygons), got {type(polygons)}")
        self.polygons = [_check_polygons(of_object) for of_object in polygons]

    def to(self, *args: Any, **kwargs: Any) -> PolygonMasks:
        """Polygons stay on the CPU; accepted so that ``Instances.to`` can be called."""
        return self

    @property
    def device(self) -> torch.device:
        """Always the CPU."""
        return torch.device("cpu")

    def get_bounding_boxes(self) -> Boxes:
        """Tight boxes; right and bottom never less than 0, as upstream."""
        boxes = torch.zeros(len(self), 4)
        boxes[:, :2] = float("inf")
        for box, of_object in zip(boxes, self.polygons, strict=True):
            if of_object:
                points = torch.from_numpy(np.concatenate(of_object)).view(-1, 2).float()
                box[:2], box[2:] = points.amin(dim=0), points.amax(dim=0).clamp(min=0)
        return Boxes(boxes)

    def nonempty(self) -> Tensor:
        """Boolean (N,): the object has a polygon."""
        return torch.tensor([len(of_object) > 0 for of_object in self.polygons], dtype=torch.bool)

    def __getitem__(self, item: int | slice | list[int] | Tensor) -> PolygonMasks:
        """Index by int (one object), slice, list of ints, boolean mask or index tensor."""
        if isinstance(item, int):
            return PolygonMasks([self.polygons[item]])
        if isinstance(item, slice):
            return PolygonMasks(self.polygons[item])
        if isinstance(item, Tensor):
            if item.dtype == torch.bool:
                assert item.dim() == 1, f"A mask over objects has one dimension, got {tuple(item.shape)}"
                item = item.nonzero().squeeze(1)
            elif item.dtype not in (torch.int32, torch.int64):
                raise ValueError(f"PolygonMasks cannot be indexed with a tensor of dtype {item.dtype}")
            item = item.tolist()
        return PolygonMasks([self.polygons[i] for i in item])

    def __iter__(self) -> Iterator[list[np.ndarray]]:
        return iter(self.polygons)

    def __len__(self) -> int:
        return len(self.polygons)

    def __repr__(self) -> str:
        return f"PolygonMasks(num_instances={len(self)})"

    def area(self) -> Tensor:
        """Sums of the polygons' areas by the shoelace formula, (N,), in square pixels."""
        areas = [sum(_shoelace(p) for p in of_object) for of_object in self.polygons]
        return torch.tensor(areas, dtype=torch.float64)

    @staticmethod
    def cat(polymasks_list: Sequence[PolygonMasks]) -> PolygonMasks:
        """Concatenate the lists of objects."""
        return PolygonMasks(list(itertools.chain.from_iterable(m.polygons for m in polymasks_list)))


def _shoelace(polygon: np.ndarray) -> float:
    x, y = polygon[0::2], polygon[1::2]
    return 0.5 * abs(float(x @ np.roll(y, 1) - y @ np.roll(x, 1)))


def _check_polygons(of_object: list) -> list[np.ndarray]:
    if not isinstance(of_object, list):
        raise ValueError(f"Each object of PolygonMasks is a list of polygons, got {type(of_object)}")
    arrays = [np.asarray(p.cpu() if isinstance(p, Tensor) else p).astype(np.float64) for p in of_object]
    for array in arrays:
        if len(array) % 2 != 0 or len(array) < 6:
            raise ValueError(f"A polygon has an even number of coordinates, at least 6; got {len(array)}")
    return arrays
