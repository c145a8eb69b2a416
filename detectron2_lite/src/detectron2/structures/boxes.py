"""Axis-aligned boxes in absolute pixel coordinates. Shape legend: N, M boxes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from enum import IntEnum, unique

import numpy as np
import torch
from torch import Tensor


@unique
class BoxMode(IntEnum):
    """How the numbers of a box are to be read. The integer values are stored in data sets and result files."""

    XYXY_ABS = 0  # left, top, right, bottom in pixels
    XYWH_ABS = 1  # left, top, width, height in pixels: COCO's format
    XYXY_REL = 2  # as XYXY in [0, 1] of the image; named, but not convertible
    XYWH_REL = 3  # as XYWH in [0, 1] of the image; named, but not convertible
    XYWHA_ABS = 4  # centre x, centre y, width, height, counter-clockwise angle in degrees

    @staticmethod
    def convert(box, from_mode: BoxMode, to_mode: BoxMode):
        """Convert boxes between modes without touching the input.

        Args:
            box: list or tuple of 4 (or 5) numbers, or an array or tensor of shape (N, 4) (or (N, 5)).
            from_mode: how ``box`` is to be read.
            to_mode: the wanted mode.

        Returns:
            The converted boxes, of the type of ``box``.

        Raises:
            AssertionError: wrong number of coordinates, or a relative mode.
            NotImplementedError: no conversion between these two modes.
        """
        if from_mode == to_mode:
            return box
        relative = {BoxMode.XYXY_REL, BoxMode.XYWH_REL} & {from_mode, to_mode}
        assert not relative, f"Boxes in relative coordinates cannot be converted, got {from_mode!r} -> {to_mode!r}"
        is_sequence = isinstance(box, (list, tuple))
        if is_sequence:
            assert len(box) in (4, 5), f"A box has 4 or 5 numbers, got {len(box)}: {box}"
            source = torch.tensor(box)  # float32, whatever host converts
        elif isinstance(box, np.ndarray):
            source = torch.from_numpy(box.copy())
        else:
            source = box.clone()

        converted = _convert(source, from_mode, to_mode)
        if is_sequence:
            return type(box)(converted.flatten().tolist())
        return converted.numpy() if isinstance(box, np.ndarray) else converted


def _convert(box: Tensor, from_mode: BoxMode, to_mode: BoxMode) -> Tensor:
    modes = (from_mode, to_mode)
    if modes == (BoxMode.XYWH_ABS, BoxMode.XYXY_ABS):
        box[..., 2:] += box[..., :2]
        return box
    if modes == (BoxMode.XYXY_ABS, BoxMode.XYWH_ABS):
        box[..., 2:] -= box[..., :2]
        return box
    if modes == (BoxMode.XYWHA_ABS, BoxMode.XYXY_ABS):
        assert box.shape[-1] == 5, f"Rotated boxes have 5 numbers, got shape {tuple(box.shape)}"
        x, y, w, h, angle = box.double().unbind(-1)
        cos, sin = torch.deg2rad(angle).cos().abs(), torch.deg2rad(angle).sin().abs()
        size = torch.stack((cos * w + sin * h, cos * h + sin * w), dim=-1)  # of the enclosing upright box
        xy = torch.stack((x, y), dim=-1)
        return torch.cat((xy - size / 2, xy + size / 2), dim=-1).to(box.dtype)
    if modes == (BoxMode.XYWH_ABS, BoxMode.XYWHA_ABS):
        xy, wh = box[..., :2].double(), box[..., 2:].double()
        return torch.cat((xy + wh / 2, wh, torch.zeros_like(wh[..., :1])), dim=-1).to(box.dtype)
    raise NotImplementedError(f"No conversion from {from_mode!r} to {to_mode!r}")


class Boxes:
    """N boxes, a thin wrapper of one float32 tensor.

    Attributes:
        tensor: (N, 4), rows (x0, y0, x1, y1) in pixels.
    """

    def __init__(self, tensor: Tensor | np.ndarray | Sequence) -> None:
        """
        Args:
            tensor: anything of shape (N, 4); an empty input becomes (0, 4).

        Raises:
            AssertionError: the shape is not (N, 4).
        """
        if isinstance(tensor, Tensor):
            tensor = tensor.to(torch.float32)
        else:
            tensor = torch.as_tensor(tensor, dtype=torch.float32, device="cpu")
        if tensor.numel() == 0:
            tensor = tensor.reshape(-1, 4)
        assert tensor.shape[1:] == (4,), f"Boxes need shape (N, 4), got {tuple(tensor.shape)}"
        self.tensor = tensor

    def clone(self) -> Boxes:
        """Return a copy that shares no storage."""
        return Boxes(self.tensor.clone())

    def to(self, device: torch.device | str) -> Boxes:
        """Return the boxes on ``device`` (a device only: boxes stay float32)."""
        return Boxes(self.tensor.to(device=device))

    def area(self) -> Tensor:
        """Areas in square pixels, (N,)."""
        size = self.tensor[:, 2:] - self.tensor[:, :2]
        return size[:, 0] * size[:, 1]

    def clip(self, box_size: tuple[int, int]) -> None:
        """Clip in place to the image ``box_size`` = (height, width).

        Raises:
            AssertionError: a coordinate is NaN or infinite.
        """
        assert torch.isfinite(self.tensor).all(), "Boxes contain infinite or NaN coordinates"
        height, width = box_size
        x0, y0, x1, y1 = self.tensor.unbind(dim=-1)
        x0, x1 = x0.clamp(min=0, max=width), x1.clamp(min=0, max=width)
        y0, y1 = y0.clamp(min=0, max=height), y1.clamp(min=0, max=height)
        self.tensor = torch.stack((x0, y0, x1, y1), dim=-1)

    def nonempty(self, threshold: float = 0.0) -> Tensor:
        """Boolean (N,): both sides are longer than ``threshold`` pixels."""
        return ((self.tensor[:, 2:] - self.tensor[:, :2]) > threshold).all(dim=1)

    def __getitem__(self, item) -> Boxes:
        """Index by an int (one box, still (1, 4)), a slice, a boolean mask or an index tensor."""
        selected = self.tensor[item]
        if isinstance(item, int):
            return Boxes(selected.view(1, -1))
        assert selected.dim() == 2, f"Indexing Boxes with {item} gives shape {tuple(selected.shape)}, not (N, 4)"
        return Boxes(selected)

    def __len__(self) -> int:
        return self.tensor.shape[0]

    def __repr__(self) -> str:
        return f"Boxes({self.tensor})"

    def inside_box(self, box_size: tuple[int, int], boundary_threshold: int = 0) -> Tensor:
        """Boolean (N,): within the image ``box_size`` = (height, width) enlarged by ``boundary_threshold`` pixels."""
        height, width = box_size
        x0, y0, x1, y1 = self.tensor.unbind(dim=-1)
        starts_inside = (x0 >= -boundary_threshold) & (y0 >= -boundary_threshold)
        return starts_inside & (x1 < width + boundary_threshold) & (y1 < height + boundary_threshold)

    def get_centers(self) -> Tensor:
        """Centres (x, y), (N, 2)."""
        return (self.tensor[:, :2] + self.tensor[:, 2:]) / 2

    def scale(self, scale_x: float, scale_y: float) -> None:
        """Multiply x and y coordinates in place."""
        self.tensor[:, 0::2] *= scale_x
        self.tensor[:, 1::2] *= scale_y

    @classmethod
    def cat(cls, boxes_list: Sequence[Boxes]) -> Boxes:
        """Concatenate into new storage; an empty list gives (0, 4)."""
        return cls(torch.cat([b.tensor for b in boxes_list]) if boxes_list else torch.empty(0))

    @property
    def device(self) -> torch.device:
        """Device of the tensor."""
        return self.tensor.device

    def __iter__(self) -> Iterator[Tensor]:
        """Yield one (4,) tensor per box."""
        yield from self.tensor


def _intersection(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    top_left = torch.max(boxes1[..., :2], boxes2[..., :2])
    bottom_right = torch.min(boxes1[..., 2:], boxes2[..., 2:])
    return (bottom_right - top_left).clamp(min=0).prod(dim=-1)


def pairwise_intersection(boxes1: Boxes, boxes2: Boxes) -> Tensor:
    """Intersection areas of all pairs, (N, M), in square pixels."""
    return _intersection(boxes1.tensor[:, None], boxes2.tensor)


def pairwise_iou(boxes1: Boxes, boxes2: Boxes) -> Tensor:
    """Intersection over union of all pairs, (N, M); 0 where boxes do not meet, so empty boxes never give NaN."""
    intersection = pairwise_intersection(boxes1, boxes2)
    union = boxes1.area()[:, None] + boxes2.area() - intersection
    return torch.where(intersection > 0, intersection / union, intersection.new_zeros(1))


def pairwise_ioa(boxes1: Boxes, boxes2: Boxes) -> Tensor:
    """Intersection over the area of the second box, (N, M)."""
    intersection = pairwise_intersection(boxes1, boxes2)
    return torch.where(intersection > 0, intersection / boxes2.area(), intersection.new_zeros(1))


def matched_pairwise_iou(boxes1: Boxes, boxes2: Boxes) -> Tensor:
    """Intersection over union of row i with row i, (N,).

    Raises:
        AssertionError: the lists differ in length.
    """
    assert len(boxes1) == len(boxes2), f"Matched boxes differ in number: {len(boxes1)} and {len(boxes2)}"
    intersection = _intersection(boxes1.tensor, boxes2.tensor)
    return intersection / (boxes1.area() + boxes2.area() - intersection)
