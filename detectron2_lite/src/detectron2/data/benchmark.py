"""Where a data loader spends its time."""

import logging
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
from detectron2.utils import comm
from fvcore.common.timer import Timer
from torch.utils import data

from .build import build_batch_data_loader
from .common import DatasetFromList, MapDataset
from .samplers import TrainingSampler

logger = logging.getLogger(__name__)


class _DiscardResults(data.Dataset):
    def __init__(self, dataset: data.Dataset) -> None:
        self._dataset = dataset

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, idx: int) -> list[int]:
        self._dataset[idx]
        return [0]


def iter_benchmark(
    iterator: Iterable, num_iter: int, warmup: int = 5, max_time_seconds: float = 60
) -> tuple[float, list[float]]:
    """Time steps of an iterator.

    Args:
        iterator: anything iterable, with at least ``warmup + num_iter`` elements.
        num_iter: steps to time.
        warmup: steps before.
        max_time_seconds: stop timing after this long, but time one step at least.

    Returns:
        Mean seconds per step, and the seconds of every step.
    """
    import tqdm

    iterator = iter(iterator)
    for _ in range(int(warmup)):
        next(iterator)
    timer = Timer()
    seconds = []
    for _ in tqdm.trange(int(num_iter)):
        start = timer.seconds()
        if seconds and start > max_time_seconds:
            break
        next(iterator)
        seconds.append(timer.seconds() - start)
    return timer.seconds() / max(len(seconds), 1), seconds


class DataLoaderBenchmark:
    """Time a data pipeline part by part. Every method logs its result."""

    def __init__(
        self,
        dataset: list | data.Dataset,
        *,
        mapper: Callable[[Any], Any],
        sampler: data.Sampler | None = None,
        total_batch_size: int,
        num_workers: int = 0,
        max_time_seconds: int = 90,
    ) -> None:
        """
        Args:
            dataset, mapper, sampler, total_batch_size, num_workers: see ``build_detection_train_loader``.
            max_time_seconds: bound on the time of each measurement.
        """
        self.dataset = DatasetFromList(dataset, copy=False) if isinstance(dataset, list) else dataset
        self.mapper = mapper
        self.sampler = TrainingSampler(len(self.dataset)) if sampler is None else sampler
        self.total_batch_size = total_batch_size
        self.num_workers = num_workers
        self.per_gpu_batch_size = total_batch_size // comm.get_world_size()
        self.max_time_seconds = max_time_seconds

    def _indices(self) -> Iterator[int]:
        while True:
            yield from self.sampler

    def _loader(self, dataset: data.Dataset, num_workers: int) -> Iterator:
        return iter(build_batch_data_loader(dataset, self.sampler, self.total_batch_size, num_workers=num_workers))

    def _benchmark(self, iterator: Iterable, num_iter: int, warmup: int, msg: str) -> None:
        mean, seconds = iter_benchmark(iterator, num_iter, warmup, self.max_time_seconds)
        logger.info(self._format(msg, mean, seconds))

    @staticmethod
    def _format(msg: str, mean: float, seconds: list[float]) -> str:
        quantiles = [f"p{q}={np.percentile(seconds, q, method='nearest'):.2g}s" for q in (1, 5, 95, 99)]
        return f"{msg}: avg={1 / mean:.1f} it/s, {', '.join(quantiles)}."

    def benchmark_dataset(self, num_iter: int, warmup: int = 5) -> None:
        """Reading elements, without the mapper."""
        self._benchmark((self.dataset[i] for i in self._indices()), num_iter, warmup, "Dataset Alone")

    def benchmark_mapper(self, num_iter: int, warmup: int = 5) -> None:
        """Reading and mapping in this process."""
        elements = (self.mapper(self.dataset[i]) for i in self._indices())
        self._benchmark(elements, num_iter, warmup, "Single Process Mapper (sec/sample)")

    def benchmark_workers(self, num_iter: int, warmup: int = 10) -> None:
        """Whole batches with 0, 1 and ``num_workers`` workers."""
        for n in dict.fromkeys((0, 1, self.num_workers)):
            loader = self._loader(MapDataset(self.dataset, self.mapper), n)
            msg = f"DataLoader ({n} workers, bs={self.per_gpu_batch_size})"
            self._benchmark(loader, num_iter * max(n, 1), warmup * max(n, 1), msg)
            del loader  # stops the workers

    def benchmark_IPC(self, num_iter: int, warmup: int = 10) -> None:
        """Whole batches whose contents stay in the workers: the difference is the cost of moving them."""
        n = self.num_workers
        loader = self._loader(_DiscardResults(MapDataset(self.dataset, self.mapper)), n)
        msg = f"DataLoader ({n} workers, bs={self.per_gpu_batch_size}) w/o comm"
        self._benchmark(loader, num_iter * max(n, 1), warmup * max(n, 1), msg)

    def benchmark_distributed(self, num_iter: int, warmup: int = 10) -> None:
        """Whole batches in all processes at once; rank 0 logs the times of each."""
        n, world_size = self.num_workers, comm.get_world_size()
        timer = Timer()
        loader = self._loader(MapDataset(self.dataset, self.mapper), n)
        next(loader)
        logger.info(f"The first batch took {timer.seconds():.2f} s")
        comm.synchronize()
        times = iter_benchmark(loader, num_iter * max(n, 1), warmup * max(n, 1), self.max_time_seconds)
        del loader
        msg = f"DataLoader ({world_size} GPUs x {n} workers, total bs={self.total_batch_size})"
        times_of_all = comm.all_gather(times)
        if comm.is_main_process():
            for rank, (mean, seconds) in enumerate(times_of_all):
                logger.info(self._format(f"GPU{rank} {msg}", mean, seconds))
