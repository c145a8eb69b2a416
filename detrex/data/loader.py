"""The training set as an endless stream of batches that can be taken up again at any batch.

What is in batch n, and which random numbers augment it, follows from the seed and n alone: not from the number of
workers, nor from what they have prefetched. See docs/decisions/0007-resume.md.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import random
import re
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from detectron2.data import DatasetFromList
from detectron2.data.detection_utils import SizeMismatchError
from detectron2.data.samplers import TrainingSampler
from detectron2.utils import comm
from torch import Generator
from torch.utils.data import DataLoader, Dataset, IterableDataset

from detrex.data.checks.findings import DatasetError
from detrex.utils.random_state import seeded
from detrex.utils.regular_files import MachineError, is_machine_fault

__all__ = [
    "BrokenImagesError",
    "EvaluationImageError",
    "TrainLoader",
    "build_train_loader",
    "evaluation_batches",
    "shield_worker",
    "signals_held",
]

logger = logging.getLogger(__name__)

SUBSTITUTES = 10  # tried in place of a broken image, one after the other


class BrokenImagesError(ValueError):
    """More images cannot be read than the run may skip."""


class EvaluationImageError(DatasetError):
    """An image that is to be evaluated cannot be read, or has another size than its record."""


class Sample(NamedTuple):
    """What a worker returns.

    Attributes:
        value: the mapped record; None if there is none.
        broken: (file, reason) of the images that were tried before it.
        fault: why the machine could not read an image, whatever the file is like.
    """

    value: dict[str, Any] | None
    broken: list[tuple[str, str]]
    fault: str | None = None


def build_train_loader(
    dataset: Sequence[dict[str, Any]] | Dataset,
    *,
    mapper: Callable[[dict[str, Any]], dict[str, Any] | None],
    sampler: Iterable[int] | None = None,
    total_batch_size: int,
    aspect_ratio_grouping: bool = True,
    num_workers: int = 0,
    max_broken_images: int = 10,
    seed: int | None = None,
    prefetch_factor: int = 2,
    pin_memory: bool = False,
) -> TrainLoader:
    """Takes the place of detectron2's ``build_detection_train_loader`` in a config.

    Args:
        dataset: detectron2's records, with "width" and "height" for grouping.
        mapper: from a record to a sample; None rejects it, and another one takes its place.
        sampler: gives this process's indices, the same ones each time that it is iterated; default: endless passes
            over the data, each newly shuffled.
        total_batch_size: over all processes.
        aspect_ratio_grouping: batches of images that are all wider than high, or all not.
        num_workers: processes that load, per training process; 0 loads in the training process.
        max_broken_images: so many different images that cannot be read are skipped in a process; one more is an error.
        seed: of order and augmentation; default: drawn from numpy's generator of the first process.
        prefetch_factor: batches that a worker loads ahead. pin_memory: see ``torch.utils.data.DataLoader``.

    Raises:
        ValueError: an iterable or empty data set, a batch that the processes cannot share, records without a size.
    """
    if isinstance(dataset, IterableDataset):
        raise ValueError("training needs a data set with a length; an iterable one has no position to resume from")
    if not len(dataset):
        raise ValueError("the training set is empty")
    if total_batch_size < 1 or total_batch_size % comm.get_world_size():
        raise ValueError(f"total_batch_size={total_batch_size} cannot be shared by {comm.get_world_size()} processes")
    return TrainLoader(
        DatasetFromList(dataset, copy=False) if isinstance(dataset, list) else dataset,
        mapper,
        sampler=sampler,
        batch_size=total_batch_size // comm.get_world_size(),
        wide=_wide(dataset) if aspect_ratio_grouping else None,
        max_broken_images=max_broken_images,
        seed=comm.shared_random_seed() if seed is None else seed,
        num_workers=num_workers,
        prefetch_factor=prefetch_factor if num_workers else None,
        pin_memory=pin_memory,
    )


class TrainLoader:
    """Endless batches of this process, each a list of samples; see :func:`build_train_loader`.

    Attributes:
        records, mapper: of the data set, and to a sample. batch_size: of this process.
        broken_images: files that could not be read so far, with the reason.
    """

    def __init__(
        self,
        records: Dataset,
        mapper: Callable[[dict[str, Any]], dict[str, Any] | None],
        *,
        sampler: Iterable[int] | None,
        batch_size: int,
        wide: Sequence[bool] | None,
        max_broken_images: int,
        seed: int,
        **loader: Any,
    ):
        self.records, self.mapper, self.batch_size = records, mapper, batch_size
        self._samples = _Samples(records, mapper, int(seed))
        self._sampler, self._wide, self._loader = sampler, wide, loader
        self._max_broken_images = max_broken_images
        self._position = 0  # batches that were taken out
        self.broken_images: dict[str, str] = {}

    def __iter__(self) -> Iterator[list[dict[str, Any]]]:
        """Batches from the current position on.

        Raises:
            BrokenImagesError: see ``max_broken_images``.
            MachineError: memory, file descriptors, disk or network failed while an image was read.
        """
        with signals_held():
            batches = iter(
                DataLoader(
                    self._samples,
                    batch_sampler=itertools.islice(self._plan(), self._position, None),
                    collate_fn=list,
                    worker_init_fn=shield_worker,
                    generator=Generator(),  # of seeds that nothing uses; the default generator belongs to the model
                    **self._loader,
                )
            )
        for samples in batches:
            self._count_broken(samples)
            self._position += 1
            yield [sample.value for sample in samples]

    def _plan(self) -> Iterator[list[tuple[int, int]]]:
        """Batches of (number of the sample in the stream of all processes, index into the data)."""
        indices = (
            TrainingSampler(len(self._samples), seed=self._samples.seed) if self._sampler is None else self._sampler
        )
        stream = zip(itertools.count(comm.get_rank(), comm.get_world_size()), indices, strict=False)
        if self._wide is None:
            while len(batch := list(itertools.islice(stream, self.batch_size))) == self.batch_size:
                yield batch
            return
        buckets: tuple[list, list] = ([], [])
        for number, index in stream:
            bucket = buckets[self._wide[index]]
            bucket.append((number, index))
            if len(bucket) == self.batch_size:
                yield bucket[:]
                bucket.clear()

    def _count_broken(self, samples: Sequence[Sample]) -> None:
        fault = next((sample.fault for sample in samples if sample.fault is not None), None)
        if fault is not None:
            raise _machine_error(fault)
        for path, reason in itertools.chain.from_iterable(sample.broken for sample in samples):
            if path not in self.broken_images:
                self.broken_images[path] = reason
                logger.warning("Broken image %d, skipped: %s", len(self.broken_images), reason)
        count, limit = len(self.broken_images), self._max_broken_images
        if count > limit or any(sample.value is None for sample in samples):
            listing = "\n  ".join(list(self.broken_images.values())[-SUBSTITUTES:])
            raise BrokenImagesError(
                f"{count} images cannot be read, and dataloader.train.max_broken_images={limit} may be skipped:\n  "
                f"{listing}\nMend or remove them, or raise the limit"
            )

    @property
    def aspect_ratio_grouping(self) -> bool:
        """Whether a batch has images that are all wider than high, or all not."""
        return self._wide is not None

    @property
    def _layout(self) -> dict[str, int | bool]:
        return {
            "images": len(self._samples),
            "total_batch_size": self.batch_size * comm.get_world_size(),
            "processes": comm.get_world_size(),
            "aspect_ratio_grouping": self.aspect_ratio_grouping,
        }

    def state_dict(self) -> dict[str, Any]:
        """Position in the stream, and what the stream follows from."""
        return {
            "seed": self._samples.seed,
            "batches": self._position,
            "broken_images": dict(self.broken_images),
            **self._layout,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go to a position; with another layout, to about the same share of the data, in another order."""
        changed = {key: (state[key], now) for key, now in self._layout.items() if state[key] != now}
        self._samples.seed, self._position = state["seed"], state["batches"]
        self.broken_images = dict(state["broken_images"])
        if changed:
            self._position = state["batches"] * state["total_batch_size"] // self._layout["total_batch_size"]
            differences = ", ".join(f"{key} {was} -> {now}" for key, (was, now) in changed.items())
            logger.warning("The order of the images is another one from here on, for it follows from: %s", differences)


class _Samples(Dataset):
    """(number, index) -> Sample. All random numbers of a sample follow from the seed and its number in the stream."""

    def __init__(self, records: Dataset, mapper: Callable[[dict[str, Any]], dict[str, Any] | None], seed: int):
        self._records, self._mapper, self.seed = records, mapper, seed

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, key: tuple[int, int]) -> Sample:
        number, index = key
        broken = []
        with seeded(self.seed, number):
            for _ in range(1 + SUBSTITUTES):
                record = self._records[index]
                try:
                    value = self._mapper(record)
                except (OSError, MemoryError, SizeMismatchError) as e:
                    path = str(record.get("file_name", index))
                    reason = str(e) if path in str(e) else f"{path}: {e}"
                    if is_machine_fault(e):
                        return Sample(None, broken, reason)
                    broken.append((path, reason))
                else:
                    if value is not None:
                        return Sample(value, broken)
                index = random.randrange(len(self))
        return Sample(None, broken)


def evaluation_batches(loader: Iterable[Any]) -> Iterator[Any]:
    """Batches of a test loader; an image that cannot be used ends them with an error that names it.

    Args:
        loader: detectron2's, with a mapper that raises what :class:`detrex.data.mapper.DetrDatasetMapper` does.

    Raises:
        EvaluationImageError: an image that cannot be read, or has another size than its record.
        MachineError: the machine could not read it.
    """
    with signals_held():
        batches = iter(loader)
    try:
        yield from batches
    except (OSError, MemoryError, SizeMismatchError) as e:
        if getattr(loader, "num_workers", 0) and not str(e).startswith("Caught "):
            raise  # of the connection to a worker, and not of its mapper
        error = _without_traceback(e)
        if is_machine_fault(error):
            raise _machine_error(str(error)) from e
        raise EvaluationImageError(
            f"an image cannot be evaluated: {error}. Mend it or its record; detrex check-data names all such images"
        ) from e


def _without_traceback(error: Exception) -> Exception:
    """What a data worker raised; PyTorch puts the text of its traceback in place of its message."""
    text, kind = str(error).rstrip(), type(error)
    if not text.startswith(f"Caught {kind.__name__} in DataLoader worker"):
        return error
    message = text.rpartition(f"{kind.__name__}: ")[2]
    number = re.match(r"\[Errno (\d+)\] ", message)
    return OSError(int(number[1]), message[number.end() :]) if number else kind(message)


def _machine_error(reason: str) -> MachineError:
    return MachineError(
        f"the machine cannot read an image: {reason}. Free memory or file descriptors, or check the disk, and continue "
        "with --resume"
    )


def _wide(records: Sequence[dict[str, Any]] | Dataset) -> bytearray:
    wide = bytearray(len(records))
    for i in range(len(records)):
        record = records[i]
        try:
            wide[i] = record["width"] > record["height"]
        except KeyError as e:
            where = record.get("file_name", f"image {i}")
            raise ValueError(f"aspect_ratio_grouping=True needs the sizes of the images; {where} has no {e}") from e
    return wide


@contextlib.contextmanager
def signals_held() -> Iterator[None]:
    """Have workers begin with a cluster's signals blocked: one that comes before the shield is up would kill them."""
    if not hasattr(signal, "sigwaitinfo"):  # without it, nobody would unblock them
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM, signal.SIGUSR1])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def shield_worker(_: int) -> None:
    """Have a worker outlive the signals that a cluster sends to all processes of a job before it takes the machine.

    The training process has to finish its step and to save, and a worker that dies would stop it. SIGTERM from the
    training process itself is obeyed.
    """
    if hasattr(signal, "SIGUSR1"):
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
        threading.Thread(target=_obey_parent, args=(os.getppid(),), daemon=True).start()


def _obey_parent(parent: int) -> None:
    while signal.sigwaitinfo([signal.SIGTERM]).si_pid != parent:
        pass
    os._exit(0)
