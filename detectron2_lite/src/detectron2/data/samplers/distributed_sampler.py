"""Samplers of indices. Each process of a job takes its share; workers of a data loader share via ToIterableDataset."""

import itertools
import logging
import math
from collections import Counter
from collections.abc import Iterator

import torch
from detectron2.utils import comm
from torch import Tensor
from torch.utils.data import Sampler

logger = logging.getLogger(__name__)


class _InfiniteSampler(Sampler):
    """One endless stream of indices, seeded alike in all processes, of which process r takes r, r + world size, ..."""

    def __init__(self, shuffle: bool, seed: int | None) -> None:
        self._shuffle = shuffle
        self._seed = int(comm.shared_random_seed() if seed is None else seed)
        self._rank = comm.get_rank()
        self._world_size = comm.get_world_size()

    def _epoch(self, generator: torch.Generator) -> Tensor:
        """The indices of one pass over the data, before shuffling."""
        raise NotImplementedError

    def _infinite_indices(self) -> Iterator[int]:
        generator = torch.Generator()
        generator.manual_seed(self._seed)
        while True:
            indices = self._epoch(generator)
            if self._shuffle:
                indices = indices[torch.randperm(len(indices), generator=generator)]
            yield from indices.tolist()

    def __iter__(self) -> Iterator[int]:
        yield from itertools.islice(self._infinite_indices(), self._rank, None, self._world_size)


class TrainingSampler(_InfiniteSampler):
    """Endless passes over the data, each newly shuffled. The position in the stream is not part of checkpoints."""

    def __init__(self, size: int, shuffle: bool = True, seed: int | None = None) -> None:
        """
        Args:
            size: number of elements of the data set.
            shuffle: permute every pass.
            seed: the same in all processes; default: drawn once and shared, for which all processes must take part.

        Raises:
            TypeError, ValueError: ``size`` is not a positive int.
        """
        if not isinstance(size, int):
            raise TypeError(f"{type(self).__name__} needs an int size, got {type(size)}")
        if size <= 0:
            raise ValueError(f"{type(self).__name__} needs a positive size, got {size}")
        super().__init__(shuffle, seed)
        self._size = size

    def _epoch(self, generator: torch.Generator) -> Tensor:
        return torch.arange(self._size)


class RandomSubsetTrainingSampler(TrainingSampler):
    """A :class:`TrainingSampler` over a random subset, to measure accuracy against the amount of data."""

    def __init__(
        self,
        size: int,
        subset_ratio: float,
        shuffle: bool = True,
        seed_shuffle: int | None = None,
        seed_subset: int | None = None,
    ) -> None:
        """
        Args:
            size: number of elements of the data set.
            subset_ratio: share to keep, in (0, 1].
            shuffle: permute every pass.
            seed_shuffle, seed_subset: of the passes and of the choice; default as :class:`TrainingSampler`.
        """
        super().__init__(size=size, shuffle=shuffle, seed=seed_shuffle)
        assert 0.0 < subset_ratio <= 1.0, f"subset_ratio must be in (0, 1], got {subset_ratio}"
        kept = int(size * subset_ratio)
        assert kept > 0, f"subset_ratio={subset_ratio} keeps none of {size} elements"
        generator = torch.Generator()
        generator.manual_seed(int(comm.shared_random_seed() if seed_subset is None else seed_subset))
        self._indexes_subset = torch.randperm(size, generator=generator)[:kept]
        logger.info(f"Training on a random subset of {kept} of {size} elements")

    def _epoch(self, generator: torch.Generator) -> Tensor:
        return self._indexes_subset


class RepeatFactorTrainingSampler(_InfiniteSampler):
    """Endless passes in which rare categories come more often (Gupta et al., "LVIS", 2019, appendix B.2)."""

    def __init__(self, repeat_factors: Tensor, *, shuffle: bool = True, seed: int | None = None) -> None:
        """
        Args:
            repeat_factors: (N,), how often each element comes per pass; fractions are rounded at random.
            shuffle, seed: as :class:`TrainingSampler`.
        """
        super().__init__(shuffle, seed)
        self._int_part = torch.trunc(repeat_factors)
        self._frac_part = repeat_factors - self._int_part

    @staticmethod
    def repeat_factors_from_category_frequency(
        dataset_dicts: list[dict], repeat_thresh: float, sqrt: bool = True
    ) -> Tensor:
        """Repeat factors of images from the frequency of their rarest category.

        Args:
            dataset_dicts: images with "annotations".
            repeat_thresh: categories in a smaller share of the images are repeated by threshold / share.
            sqrt: by the square root of that.

        Returns:
            float32 (N,), at least 1.
        """
        categories = [{ann["category_id"] for ann in image["annotations"]} for image in dataset_dicts]
        repeats = {}
        for category, images in sorted(Counter(itertools.chain(*categories)).items()):
            ratio = repeat_thresh / (images / len(dataset_dicts))
            repeats[category] = max(1.0, math.sqrt(ratio) if sqrt else ratio)
            logger.info(f"Category {category}: in {images} images, repeated {repeats[category]:.2f} times")
        return torch.tensor([max((repeats[c] for c in of_image), default=1.0) for of_image in categories])

    def _epoch(self, generator: torch.Generator) -> Tensor:
        rounded_up = torch.rand(len(self._frac_part), generator=generator) < self._frac_part
        repeats = (self._int_part + rounded_up.float()).long()
        return torch.repeat_interleave(torch.arange(len(repeats)), repeats)


class InferenceSampler(Sampler):
    """Every index exactly once over all processes, in contiguous shares that differ by at most one."""

    def __init__(self, size: int) -> None:
        """
        Raises:
            AssertionError: ``size`` is not positive.
        """
        assert size > 0, f"InferenceSampler needs a positive size, got {size}"
        self._local_indices = self._get_local_indices(size, comm.get_world_size(), comm.get_rank())

    @staticmethod
    def _get_local_indices(total_size: int, world_size: int, rank: int) -> range:
        share, left = divmod(total_size, world_size)
        begin = rank * share + min(rank, left)
        return range(begin, begin + share + (rank < left))

    def __iter__(self) -> Iterator[int]:
        yield from self._local_indices

    def __len__(self) -> int:
        return len(self._local_indices)
