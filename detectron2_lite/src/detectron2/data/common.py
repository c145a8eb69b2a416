"""Wrappers of data sets: mapping, serialising, iterating by a sampler, grouping by aspect ratio."""

import copy
import logging
import pickle
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from detectron2.utils.serialize import PicklableWrapper
from torch.utils import data

logger = logging.getLogger(__name__)


def _shard_of_worker(indices: Iterable[int], chunk_size: int) -> Iterator[int]:
    """The chunks of ``chunk_size`` indices that fall to this data loader worker, so that its batches are its own."""
    worker = data.get_worker_info()
    if worker is None or worker.num_workers == 1:
        yield from indices
        return
    for position, index in enumerate(indices):
        if position // chunk_size % worker.num_workers == worker.id:
            yield index


class _MapIterableDataset(data.IterableDataset):
    def __init__(self, dataset: data.IterableDataset, map_func: Callable[[Any], Any]) -> None:
        self._dataset = dataset
        self._map_func = PicklableWrapper(map_func)

    def __len__(self) -> int:
        return len(self._dataset)

    def __iter__(self) -> Iterator[Any]:
        for item in map(self._map_func, self._dataset):
            if item is not None:
                yield item


class MapDataset(data.Dataset):
    """Apply a function to every element; the function may return None to reject one.

    In place of a rejected element a map-style data set gives another one, drawn at random; an iterable one (for which
    the constructor returns an iterable data set) skips it.
    """

    def __new__(cls, dataset: Any, map_func: Callable[[Any], Any]) -> Any:
        if isinstance(dataset, data.IterableDataset):
            return _MapIterableDataset(dataset, map_func)
        return super().__new__(cls)

    def __init__(self, dataset: Any, map_func: Callable[[Any], Any]) -> None:
        self._dataset = dataset
        self._map_func = PicklableWrapper(map_func)  # so that a lambda reaches spawned workers
        self._rng = random.Random(42)
        self._rejected: set[int] = set()

    def __getnewargs__(self) -> tuple[Any, Any]:
        return self._dataset, self._map_func

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, idx: int) -> Any:
        """The mapped element, or another one in place of a rejected one.

        Raises:
            RuntimeError: the function rejects every element.
        """
        current, tries = int(idx), 0
        while True:
            item = self._map_func(self._dataset[current])
            if item is not None:
                self._rejected.discard(current)
                return item
            tries += 1
            self._rejected.add(current)
            candidates = [i for i in range(len(self)) if i not in self._rejected]
            if not candidates:
                raise RuntimeError(f"The mapper returned None for all {len(self)} elements of the data set")
            current = self._rng.sample(candidates, k=1)[0]
            if tries >= 3:
                logger.warning(f"The mapper returned None for element {idx} and {tries - 1} substitutes")


class _SerializedList:
    """Elements pickled into one uint8 tensor, which forked and spawned workers share instead of copying."""

    def __init__(self, elements: Sequence[Any]) -> None:
        pickled = [np.frombuffer(pickle.dumps(e, protocol=-1), dtype=np.uint8) for e in elements]
        self._ends = torch.from_numpy(np.cumsum([len(p) for p in pickled], dtype=np.int64))
        self._bytes = torch.from_numpy(np.concatenate(pickled) if pickled else np.empty(0, dtype=np.uint8))
        logger.info(f"Serialized {len(pickled)} elements into {len(self._bytes) / 1024**2:.2f} MiB")

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, idx: int) -> Any:
        index = range(len(self))[idx]  # IndexError, and negative indices
        start = 0 if index == 0 else self._ends[index - 1].item()
        return pickle.loads(memoryview(self._bytes[start : self._ends[index].item()].numpy()))


class DatasetFromList(data.Dataset):
    """A list as a map-style data set whose elements can be changed without harm."""

    def __init__(self, lst: list, copy: bool = True, serialize: bool | Callable[[list], Sequence] = True) -> None:
        """
        Args:
            lst: the elements.
            copy: return deep copies; a serialized list does so anyway.
            serialize: keep the elements pickled in one buffer, or a function that makes such a sequence of the list.

        Raises:
            TypeError: ``serialize`` is neither a bool nor callable.
        """
        if not isinstance(serialize, bool) and not callable(serialize):
            raise TypeError(f"serialize is a bool or a function, got {type(serialize)}")
        self._copy = copy and serialize is False
        if serialize is not False:
            lst = _SerializedList(lst) if serialize is True else serialize(lst)
        self._lst = lst

    def __len__(self) -> int:
        return len(self._lst)

    def __getitem__(self, idx: int) -> Any:
        return copy.deepcopy(self._lst[idx]) if self._copy else self._lst[idx]


class ToIterableDataset(data.IterableDataset):
    """A map-style data set read in the order of a sampler that runs inside the workers."""

    def __init__(
        self, dataset: data.Dataset, sampler: data.Sampler, shard_sampler: bool = True, shard_chunk_size: int = 1
    ) -> None:
        """
        Args:
            dataset: map-style.
            sampler: must give the same indices in every worker.
            shard_sampler: deal the indices out to the workers; False if the sampler does that itself.
            shard_chunk_size: consecutive indices for one worker, best the batch size.
        """
        assert not isinstance(dataset, data.IterableDataset), f"{type(dataset)} is iterable already"
        assert isinstance(sampler, data.Sampler), f"Expected a torch Sampler, got {type(sampler)}"
        self.dataset = dataset
        self.sampler = sampler
        self.shard_sampler = shard_sampler
        self.shard_chunk_size = shard_chunk_size

    def __iter__(self) -> Iterator[Any]:
        indices = _shard_of_worker(self.sampler, self.shard_chunk_size) if self.shard_sampler else self.sampler
        for index in indices:
            yield self.dataset[index]

    def __len__(self) -> int:
        return len(self.sampler)


class AspectRatioGroupedDataset(data.IterableDataset):
    """Batches of images that are all wider than high, or all not, which saves padding.

    Elements are dicts with "width" and "height". Order within each kind is kept; incomplete batches never come.
    """

    def __init__(self, dataset: Iterable[dict], batch_size: int) -> None:
        self.dataset = dataset
        self.batch_size = batch_size

    def __iter__(self) -> Iterator[list[dict]]:
        buckets: tuple[list[dict], list[dict]] = ([], [])
        for element in self.dataset:
            bucket = buckets[element["width"] > element["height"]]
            bucket.append(element)
            if len(bucket) == self.batch_size:
                yield bucket[:]
                bucket.clear()
