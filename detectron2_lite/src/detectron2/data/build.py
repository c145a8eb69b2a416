"""Data loaders."""

import itertools
import logging
import operator
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from detectron2.utils.comm import get_world_size
from detectron2.utils.env import seed_all_rng
from detectron2.utils.logger import _create_class_table, log_first_n
from torch.utils import data as torchdata

from .catalog import DatasetCatalog, MetadataCatalog
from .common import AspectRatioGroupedDataset, DatasetFromList, MapDataset, ToIterableDataset
from .detection_utils import check_metadata_consistency
from .samplers import InferenceSampler, TrainingSampler

logger = logging.getLogger(__name__)


def filter_images_with_only_crowd_annotations(dataset_dicts: list[dict]) -> list[dict]:
    """Keep the images that have an annotation which is not a crowd."""
    kept = [d for d in dataset_dicts if any(ann.get("iscrowd", 0) == 0 for ann in d["annotations"])]
    logger.info(f"Removed {len(dataset_dicts) - len(kept)} images with no usable annotations. {len(kept)} images left.")
    return kept


def filter_images_with_few_keypoints(dataset_dicts: list[dict], min_keypoints_per_image: int) -> list[dict]:
    """Keep the images with at least so many visible keypoints."""

    def visible(image: dict) -> int:
        keypoints = (ann["keypoints"] for ann in image["annotations"] if "keypoints" in ann)
        return sum(visibility > 0 for k in keypoints for visibility in k[2::3])

    kept = [d for d in dataset_dicts if visible(d) >= min_keypoints_per_image]
    removed = len(dataset_dicts) - len(kept)
    logger.info(f"Removed {removed} images with fewer than {min_keypoints_per_image} keypoints.")
    return kept


def print_instances_class_histogram(dataset_dicts: list[dict], class_names: Sequence[str]) -> None:
    """Log how many objects, crowds aside, each class has.

    Raises:
        AssertionError: a class id outside [0, len(class_names)).
    """
    from termcolor import colored

    objects = itertools.chain.from_iterable(d["annotations"] for d in dataset_dicts)
    classes = np.asarray([obj["category_id"] for obj in objects if not obj.get("iscrowd", 0)], dtype=int)
    if len(classes):
        low, high = classes.min(), classes.max()
        assert low >= 0, f"category_id {low} is negative"
        assert high < len(class_names), f"category_id {high} is out of range for {len(class_names)} classes"
    counts = np.bincount(classes, minlength=len(class_names)).tolist()
    names = [name if len(name) <= 13 else f"{name[:11]}.." for name in class_names]
    if len(names) > 1:
        names, counts = [*names, "total"], [*counts, sum(counts)]
    table = _create_class_table(names, counts, "#instances")
    message = f"Distribution of instances among all {len(class_names)} categories:\n{colored(table, 'cyan')}"
    log_first_n(logging.INFO, message, key="message")


def get_detection_dataset_dicts(
    names: str | Sequence[str],
    filter_empty: bool = True,
    min_keypoints: int = 0,
    proposal_files: Sequence[str] | None = None,
    check_consistency: bool = True,
) -> list[dict] | torchdata.Dataset:
    """Load and join registered data sets.

    Args:
        names: one or several.
        filter_empty: drop images without any object that is not a crowd.
        min_keypoints: drop images with fewer visible keypoints.
        proposal_files: not in this subset.
        check_consistency: check that the data sets have the same classes, and log their histogram.

    Returns:
        The dicts, or the torch Dataset that was registered (several: their concatenation).

    Raises:
        KeyError: an unknown name.
        ValueError: the data sets have different classes.
        AssertionError: an empty data set, or nothing left after filtering.
        NotImplementedError: ``proposal_files`` is given.
    """
    if proposal_files is not None:
        raise NotImplementedError("This subset of detectron2 loads no precomputed proposals")
    names = [names] if isinstance(names, str) else list(names)
    assert names, "No data set is named"
    datasets = [DatasetCatalog.get(name) for name in names]
    if isinstance(datasets[0], torchdata.Dataset):
        return torchdata.ConcatDataset(datasets) if len(datasets) > 1 else datasets[0]
    for name, dicts in zip(names, datasets, strict=True):
        assert len(dicts), f"Data set {name!r} is empty"
    dataset_dicts = list(itertools.chain.from_iterable(datasets))

    if "annotations" in dataset_dicts[0]:
        if filter_empty:
            dataset_dicts = filter_images_with_only_crowd_annotations(dataset_dicts)
        if min_keypoints > 0:
            dataset_dicts = filter_images_with_few_keypoints(dataset_dicts, min_keypoints)
        class_names = MetadataCatalog.get(names[0]).get("thing_classes")
        if check_consistency and class_names is not None:
            check_metadata_consistency("thing_classes", names)
            print_instances_class_histogram(dataset_dicts, class_names)
    assert dataset_dicts, f"No image with usable annotations in {', '.join(names)}"
    return dataset_dicts


def build_batch_data_loader(
    dataset: torchdata.Dataset,
    sampler: torchdata.Sampler | None,
    total_batch_size: int | None,
    *,
    aspect_ratio_grouping: bool = False,
    num_workers: int = 0,
    collate_fn: Callable[[list], Any] | None = None,
    drop_last: bool = True,
    single_gpu_batch_size: int | None = None,
    prefetch_factor: int | None = 2,
    persistent_workers: bool = False,
    pin_memory: bool = False,
    seed: int | None = None,
    **kwargs: Any,
) -> Iterable:
    """Batch a data set; see :func:`build_detection_train_loader`.

    Args:
        dataset: map-style with ``sampler``, or iterable with ``sampler=None``.
        single_gpu_batch_size: in place of ``total_batch_size``.
        drop_last: drop an incomplete last batch (needed for grouping).
        seed: of the workers' random numbers.
        kwargs: further arguments of ``torch.utils.data.DataLoader``.

    Raises:
        ValueError: both batch sizes are given.
        AssertionError: the total is not a multiple of the number of processes; a sampler for an iterable data set.
    """
    if single_gpu_batch_size and total_batch_size:
        raise ValueError("Give total_batch_size or single_gpu_batch_size, not both")
    batch_size = single_gpu_batch_size
    if not batch_size:
        world_size = get_world_size()
        assert total_batch_size > 0, f"total_batch_size must be positive, got {total_batch_size}"
        remainder = total_batch_size % world_size
        assert remainder == 0, f"total_batch_size={total_batch_size} must be divisible by the {world_size} processes"
        batch_size = total_batch_size // world_size
    logger.info(f"Making batched data loader with batch_size={batch_size}")

    if isinstance(dataset, torchdata.IterableDataset):
        assert sampler is None, "An iterable data set needs sampler=None"
    else:
        dataset = ToIterableDataset(dataset, sampler, shard_chunk_size=batch_size)
    loader_args = dict(
        kwargs,
        num_workers=num_workers,
        worker_init_fn=worker_init_reset_seed,
        prefetch_factor=prefetch_factor if num_workers > 0 else None,
        persistent_workers=persistent_workers,
        pin_memory=pin_memory,
        generator=None if seed is None else torch.Generator().manual_seed(seed),
    )
    if aspect_ratio_grouping:
        assert drop_last, "aspect_ratio_grouping drops incomplete batches, so drop_last must be true"
        loader = torchdata.DataLoader(dataset, collate_fn=operator.itemgetter(0), **loader_args)
        batches = AspectRatioGroupedDataset(loader, batch_size)
        return batches if collate_fn is None else MapDataset(batches, collate_fn)
    return torchdata.DataLoader(
        dataset,
        batch_size=batch_size,
        drop_last=drop_last,
        collate_fn=trivial_batch_collator if collate_fn is None else collate_fn,
        **loader_args,
    )


def _mapped(dataset: list | torchdata.Dataset, mapper: Callable | None, sampler: Any) -> torchdata.Dataset:
    if isinstance(dataset, list):
        dataset = DatasetFromList(dataset, copy=False)
    if mapper is not None:
        dataset = MapDataset(dataset, mapper)
    if isinstance(dataset, torchdata.IterableDataset):
        assert sampler is None, "An iterable data set needs sampler=None"
    return dataset


def build_detection_train_loader(
    dataset: list | torchdata.Dataset,
    *,
    mapper: Callable[[dict], Any] | None,
    sampler: torchdata.Sampler | None = None,
    total_batch_size: int,
    aspect_ratio_grouping: bool = True,
    num_workers: int = 0,
    collate_fn: Callable[[list], Any] | None = None,
    **kwargs: Any,
) -> Iterable:
    """Build an endless loader of batches, each a list of mapped elements.

    Args:
        dataset: list of dicts, or a torch Dataset.
        mapper: applied to every element inside the workers.
        sampler: default :class:`TrainingSampler`; None for an iterable data set.
        total_batch_size: over all processes.
        aspect_ratio_grouping: batch images of like orientation; elements need "width" and "height".
        num_workers: processes that load, per training process.
        collate_fn: applied to every batch; default: none.
        kwargs: see :func:`build_batch_data_loader`.
    """
    dataset = _mapped(dataset, mapper, sampler)
    if not isinstance(dataset, torchdata.IterableDataset):
        sampler = TrainingSampler(len(dataset)) if sampler is None else sampler
        assert isinstance(sampler, torchdata.Sampler), f"Expected a torch Sampler, got {type(sampler)}"
    return build_batch_data_loader(
        dataset,
        sampler,
        total_batch_size,
        aspect_ratio_grouping=aspect_ratio_grouping,
        num_workers=num_workers,
        collate_fn=collate_fn,
        **kwargs,
    )


def build_detection_test_loader(
    dataset: list | torchdata.Dataset,
    *,
    mapper: Callable[[dict], Any] | None,
    sampler: torchdata.Sampler | None = None,
    batch_size: int = 1,
    num_workers: int = 0,
    collate_fn: Callable[[list], Any] | None = None,
) -> torchdata.DataLoader:
    """Build a loader that gives every element once over all processes; it has a length.

    Args:
        dataset, mapper, num_workers, collate_fn: see :func:`build_detection_train_loader`.
        sampler: default :class:`InferenceSampler`.
        batch_size: per process.
    """
    dataset = _mapped(dataset, mapper, sampler)
    if sampler is None and not isinstance(dataset, torchdata.IterableDataset):
        sampler = InferenceSampler(len(dataset))
    return torchdata.DataLoader(
        dataset,
        batch_size=batch_size,
        sampler=sampler,
        num_workers=num_workers,
        collate_fn=trivial_batch_collator if collate_fn is None else collate_fn,
    )


def trivial_batch_collator(batch: list) -> list:
    """A batch is the list of its elements."""
    return batch


def worker_init_reset_seed(worker_id: int) -> None:
    """Seed all generators of a worker from torch's, which data loaders seed by worker and epoch."""
    seed_all_rng(torch.initial_seed() % 2**31 + worker_id)
