"""How images of different size become one batch of feature maps with a known layout."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from detrex.structures import PyramidLayout, Size

from .targets import make_targets

__all__ = ["PadFeatures", "PadImages", "WholeBatch", "nearest_valid_length"]

Extractor = Callable[[Tensor], Sequence[Tensor]]  # images (B, 3, H, W) -> L maps (B, C, H_l, W_l)


@dataclass(frozen=True)
class WholeBatch:
    """The full batch of an update, for a forward pass on a part of it: the part then gives its share of the loss.

    Attributes:
        num_images: number of images in the batch.
        num_boxes: number of objects that can be matched.
        size: (height, width) in pixels to which the batch's images are padded.
    """

    num_images: int
    num_boxes: int
    size: Size

    @classmethod
    def of(cls, batch: Sequence[Mapping]) -> WholeBatch:
        """Measure a batch of detectron2's inputs: dicts with ``image`` and ``instances``."""
        height, width = (max(x["image"].shape[axis] for x in batch) for axis in (-2, -1))
        objects = [x["instances"] for x in batch]
        kept = [make_targets(x.gt_classes, x.gt_boxes.tensor, x.image_size)[0] for x in objects]
        return cls(len(batch), sum(len(target) for target in kept), (height, width))


class PadImages:
    """Pad the images with zeros to one size, then extract features of all together, as the papers' code trains.

    Fast on GPUs, but backbone and neck see the padding: it reaches the maps near the border through convolutions and
    everywhere through norms over the map, so that features depend a little on the other images of the batch.
    """

    def __call__(
        self, images: Sequence[Tensor], extract: Extractor, min_size: Size = (0, 0)
    ) -> tuple[Sequence[Tensor], PyramidLayout]:
        """Normalised images (3, h, w), padded to ``min_size`` or more -> L maps (B, C, H_l, W_l) and their layout."""
        height, width = (max(min_size[axis], *(image.shape[axis] for image in images)) for axis in (-2, -1))
        maps = extract(torch.stack([_pad(image, height, width) for image in images]))
        shapes = [tuple(x.shape[-2:]) for x in maps]
        valid_sizes = [
            [
                (nearest_valid_length(image.shape[-2], height, h), nearest_valid_length(image.shape[-1], width, w))
                for h, w in shapes
            ]
            for image in images
        ]
        return maps, PyramidLayout.build(shapes, valid_sizes, images[0].device)


class PadFeatures:
    """Extract features of each image size by itself, then pad the maps: no image ever depends on another.

    The same image gives the same boxes alone and in any batch. Not for training norms with batch statistics.
    """

    def __call__(
        self, images: Sequence[Tensor], extract: Extractor, min_size: Size = (0, 0)
    ) -> tuple[Sequence[Tensor], PyramidLayout]:
        """Normalised images (3, h, w) -> L maps (B, C, H_l, W_l) and their layout; ``min_size`` does not apply."""
        by_size: dict[tuple[int, int], list[int]] = {}
        for index, image in enumerate(images):
            by_size.setdefault(tuple(image.shape[-2:]), []).append(index)
        groups = [(indices, extract(torch.stack([images[i] for i in indices]))) for indices in by_size.values()]
        levels = list(zip(*(maps for _, maps in groups), strict=True))
        shapes = [tuple(max(x.shape[axis] for x in maps) for axis in (-2, -1)) for maps in levels]
        valid_sizes: list = [None] * len(images)
        for indices, maps in groups:
            for index in indices:
                valid_sizes[index] = [tuple(x.shape[-2:]) for x in maps]
        if len(groups) == 1:
            return groups[0][1], PyramidLayout.build(shapes, valid_sizes, images[0].device)
        order = sorted(range(len(images)), key=[i for indices, _ in groups for i in indices].__getitem__)
        padded = [torch.cat([_pad(x, *shape) for x in maps])[order] for maps, shape in zip(levels, shapes, strict=True)]
        return padded, PyramidLayout.build(shapes, valid_sizes, images[0].device)


def nearest_valid_length(valid: int, padded: int, cells: int) -> int:
    """How many of ``cells`` cells over ``padded`` pixels start within the first ``valid`` pixels.

    It is what nearest-neighbour interpolation of a padding mask gives, in the same float32 arithmetic.
    """
    if valid == padded:
        return cells
    starts = (torch.arange(cells, dtype=torch.float32) * torch.tensor(padded / cells, dtype=torch.float32)).floor()
    return int((starts < valid).sum())


def _pad(x: Tensor, height: int, width: int) -> Tensor:
    return F.pad(x, (0, width - x.shape[-1], 0, height - x.shape[-2]))
