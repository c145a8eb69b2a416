"""The largest batch that a config can produce: what memory has to suffice for."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import Any

import detectron2.data.transforms as T
import torch
from detectron2.structures import Boxes, Instances

from detrex.config.validation import ConfigError
from detrex.data.loader import TrainLoader

__all__ = ["largest_sample", "largest_size"]

logger = logging.getLogger(__name__)

Size = tuple[int, int]  # (height, width) in pixels

_KEEP_SIZE = (
    T.RandomFlip,
    T.RandomBrightness,
    T.RandomContrast,
    T.RandomSaturation,
    T.RandomLighting,
)


def largest_sample(loader: TrainLoader) -> dict[str, Any]:
    """A sample of noise, as large as a padded batch can be, with as many boxes as the fullest image has.

    Args:
        loader: of the training data, whose mapper is a ``DetrDatasetMapper``.

    Raises:
        ConfigError: another loader or mapper, whose sizes are not known.
    """
    if not isinstance(loader, TrainLoader) or not hasattr(loader.mapper, "chains"):
        raise ConfigError(
            "train.dry_run and total_batch_size=auto must know the sizes of images: they need "
            "detrex.data.build_train_loader with detrex.data.DetrDatasetMapper in dataloader.train"
        )
    sizes, boxes = set(), 0
    for i in range(len(loader.records)):
        record = loader.records[i]
        sizes.add((record["height"], record["width"]))
        boxes = max(boxes, sum(not x.get("iscrowd", 0) for x in record.get("annotations", ())))
    height, width = largest_size(sizes, loader.mapper.chains, by_orientation=loader.aspect_ratio_grouping)
    return _noise(height, width, boxes)


def largest_size(sizes: Iterable[Size], chains: Sequence[Sequence[T.Augmentation]], *, by_orientation: bool) -> Size:
    """(height, width) that no padded batch exceeds; where a chain crops at random, few reach it.

    Args:
        sizes: of the images. chains: of augmentations, one of which an image takes.
        by_orientation: whether images that are wider than high are never in one batch with the others.
    """
    groups: dict[bool, set[Size]] = {}
    for size in sizes:
        groups.setdefault(by_orientation and size[1] > size[0], set()).add(size)
    padded = []
    for group in groups.values():
        results = {size for chain in chains for start in group for size in _results(start, chain)}
        padded.append((max(height for height, _ in results), max(width for _, width in results)))
    for augmentation in {type(a): a for chain in chains for a in chain}.values():
        if not isinstance(augmentation, (T.ResizeShortestEdge, T.Resize, T.RandomCrop, *_KEEP_SIZE)):
            logger.warning("%s is taken to keep the size of an image", type(augmentation).__name__)
    return max(padded, key=lambda size: size[0] * size[1])


def _results(size: Size, chain: Sequence[T.Augmentation]) -> set[Size]:
    """The extreme sizes among those that a chain makes of an image."""
    sizes = {size}
    for augmentation in chain:
        sizes = {result for size in sizes for result in _extremes(size, augmentation)}
    return sizes


def _extremes(size: Size, augmentation: T.Augmentation) -> Iterable[Size]:
    height, width = size
    if isinstance(augmentation, T.ResizeShortestEdge):
        lengths = augmentation.short_edge_length
        for length in (min(lengths), max(lengths)):
            resized = augmentation.get_output_shape(height, width, length, augmentation.max_size)
            yield resized if length else size
    elif isinstance(augmentation, T.Resize):
        yield tuple(augmentation.shape)
    elif isinstance(augmentation, T.RandomCrop):
        heights, widths = zip(*_crops(size, augmentation.crop_type, augmentation.crop_size), strict=True)
        yield from ((h, w) for h in heights for w in widths)
    else:
        yield size


def _crops(size: Size, kind: str, crop: tuple[float, float]) -> tuple[Size, Size]:
    """The least and the greatest (height, width) of a crop."""
    height, width = size
    if kind == "absolute":
        return ((min(crop[0], height), min(crop[1], width)),) * 2
    if kind == "absolute_range":
        least, most = crop
        return (min(least, height), min(least, width)), (min(most, height), min(most, width))
    low, high = ((int(height * crop[0]) + d, int(width * crop[1]) + d) for d in (0, 1))  # rounded either way
    return (low, high) if kind == "relative" else (low, size)


def _noise(height: int, width: int, num_boxes: int) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)
    corner = torch.rand(num_boxes, 2, generator=generator) * 0.5
    boxes = torch.cat([corner, corner + 0.1 + 0.4 * torch.rand(num_boxes, 2, generator=generator)], 1)
    instances = Instances((height, width))
    instances.gt_boxes = Boxes(boxes * torch.tensor([width, height, width, height]))
    instances.gt_classes = torch.zeros(num_boxes, dtype=torch.int64)
    image = torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=generator)
    name = "the largest that the config can produce"
    return {"image": image, "instances": instances, "height": height, "width": width, "file_name": name}
