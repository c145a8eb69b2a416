"""The endless stream of batches: what it depends on, and where it can be taken up again."""

from __future__ import annotations

import errno
import itertools
import logging
import os
import random
import signal

import numpy as np
import pytest
import torch
from detectron2.data import build_detection_test_loader
from detectron2.data.detection_utils import SizeMismatchError
from detectron2.data.samplers import TrainingSampler
from detectron2.utils import comm
from torch.utils.data import IterableDataset

from detrex.data import BrokenImagesError, build_train_loader
from detrex.data import loader as train_loader
from detrex.data.loader import EvaluationImageError, evaluation_batches
from detrex.utils.random_state import random_state, seeded, set_random_state
from detrex.utils.regular_files import MachineError

RECORDS = [{"file_name": f"{i}.jpg", "width": 4 + i % 3, "height": 5} for i in range(10)]


def draw(record: dict) -> dict:
    """A mapper that draws from all generators."""
    return {**record, "drawn": (random.random(), np.random.rand(), torch.rand(()).item())}  # noqa: NPY002


def damaged(record: dict) -> dict:
    if record["file_name"] in ("2.jpg", "7.jpg"):
        raise OSError("image file is truncated")
    return draw(record)


def loader(mapper=draw, **kwargs):
    options = {"total_batch_size": 2, "aspect_ratio_grouping": False, "seed": 5} | kwargs
    return build_train_loader(list(RECORDS), mapper=mapper, **options)


def take(stream, count: int) -> list:
    iterator = iter(stream)
    batches = list(itertools.islice(iterator, count))
    iterator.close()
    return batches


@pytest.mark.parametrize("grouping", [False, True])
@pytest.mark.parametrize("num_workers", [1, 3])
def test_workers_change_nothing(num_workers, grouping):
    alone = take(loader(aspect_ratio_grouping=grouping), 15)
    assert take(loader(aspect_ratio_grouping=grouping, num_workers=num_workers), 15) == alone


@pytest.mark.skipif(not hasattr(signal, "sigwaitinfo"), reason="this system lacks sigwaitinfo")
@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1"])
def test_a_signal_before_a_worker_is_ready_does_not_kill_it(name, monkeypatch):
    shield = train_loader.shield_worker

    def struck_first(worker: int) -> None:
        os.kill(os.getpid(), getattr(signal, name))
        shield(worker)

    monkeypatch.setattr(train_loader, "shield_worker", struck_first)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    assert len(take(loader(num_workers=1), 3)) == 3
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == before


def test_every_pass_has_every_image_once_newly_shuffled_and_augmented():
    samples = list(itertools.chain.from_iterable(take(loader(), 10)))
    first, second = samples[:10], samples[10:]
    names = [[x["file_name"] for x in epoch] for epoch in (first, second)]
    assert sorted(names[0]) == sorted(names[1]) == sorted(x["file_name"] for x in RECORDS)
    assert names[0] != names[1]
    assert len({x["drawn"] for x in samples}) == 20


def test_another_seed_is_another_stream():
    assert take(loader(seed=6), 5) != take(loader(), 5)


def test_grouped_batches_are_wide_or_not():
    for batch in take(loader(aspect_ratio_grouping=True), 20):
        assert len({x["width"] > x["height"] for x in batch}) == 1


@pytest.mark.parametrize("grouping", [False, True])
@pytest.mark.parametrize("position", [0, 1, 4, 5, 13])
def test_taken_up_at_any_batch(position, grouping):
    whole = take(loader(aspect_ratio_grouping=grouping), 20)
    stopped = loader(aspect_ratio_grouping=grouping, num_workers=1)  # which has loaded ahead
    take(stopped, position)
    again = loader(aspect_ratio_grouping=grouping, seed=99)
    again.load_state_dict(stopped.state_dict())
    assert take(again, 20 - position) == whole[position:]


def test_the_process_keeps_its_own_random_numbers():
    before = random_state()
    expected = draw({})
    set_random_state(before)
    take(loader(), 3)
    assert draw({}) == expected


def test_seeded_draws_follow_from_the_seed_alone():
    with seeded(1, 2):
        first = draw({})
    draw({})
    with seeded(1, 2):
        assert draw({}) == first
    with seeded(1, 3):
        assert draw({}) != first


def test_processes_share_the_passes(monkeypatch):
    whole = [x for batch in take(loader(total_batch_size=4), 5) for x in batch]
    monkeypatch.setattr(comm, "get_world_size", lambda: 2)
    shares = []
    for rank in range(2):
        monkeypatch.setattr(comm, "get_rank", lambda rank=rank: rank)
        shares.append([x for batch in take(loader(total_batch_size=4), 5) for x in batch])
    assert [len(share) for share in shares] == [10, 10]
    assert list(itertools.chain.from_iterable(zip(*shares, strict=True))) == whole


def test_a_sampler_of_ones_own():
    stream = loader(sampler=TrainingSampler(10, shuffle=False))
    assert [x["file_name"] for batch in take(stream, 3) for x in batch] == [f"{i}.jpg" for i in range(6)]


def test_another_layout_goes_on_at_the_same_share_of_the_data_and_says_so(caplog):
    stopped = loader()
    take(stopped, 10)
    again = loader(total_batch_size=4)
    with caplog.at_level(logging.WARNING):
        again.load_state_dict(stopped.state_dict())
    assert "total_batch_size 2 -> 4" in caplog.text
    assert take(again, 1) == take(loader(total_batch_size=4), 6)[5:]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_broken_images_are_replaced_alike_and_counted(num_workers):
    stream = loader(damaged, num_workers=num_workers)
    batches = take(stream, 20)
    assert batches == take(loader(damaged), 20)
    assert all(len(batch) == 2 for batch in batches)
    assert stream.broken_images == {f"{i}.jpg": f"{i}.jpg: image file is truncated" for i in (2, 7)}
    again = loader(damaged)
    again.load_state_dict(stream.state_dict())
    assert again.broken_images == stream.broken_images


def test_too_many_broken_images_are_an_error_that_lists_them():
    with pytest.raises(BrokenImagesError, match="2 images cannot be read") as error:
        take(loader(damaged, max_broken_images=1), 20)
    assert "2.jpg: image file is truncated" in str(error.value)
    assert "7.jpg: image file is truncated" in str(error.value)


def test_nothing_but_broken_images_is_an_error_whatever_the_limit():
    def fail(record: dict) -> dict:
        raise OSError("the disk is gone")

    with pytest.raises(BrokenImagesError, match="the disk is gone"):
        take(loader(fail, max_broken_images=1000), 1)


MACHINE_FAULTS = {
    "memory": MemoryError("1.jpg"),
    "descriptors": OSError(errno.EMFILE, "Too many open files", "1.jpg"),
    "network": OSError(errno.ESTALE, "Stale file handle", "1.jpg"),
    "disk": OSError(errno.EIO, "Input/output error", "1.jpg"),
    "caused": OSError("1.jpg: cannot read the image"),
}
MACHINE_FAULTS["caused"].__cause__ = MemoryError()


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("fault", MACHINE_FAULTS.values(), ids=MACHINE_FAULTS)
def test_a_fault_of_the_machine_is_no_broken_image(fault, num_workers):
    """It was counted, and below the limit it would have thinned the data set silently."""

    def fail(record: dict) -> dict:
        if record["file_name"] == "1.jpg":
            raise fault
        return draw(record)

    stream = loader(fail, num_workers=num_workers)
    with pytest.raises(MachineError, match=r"the machine cannot read an image: .*1\.jpg"):
        take(stream, 20)
    assert not stream.broken_images


@pytest.mark.parametrize("num_workers", [0, 1])
@pytest.mark.parametrize(
    ("fault", "kind", "message"),
    [
        (OSError("1.jpg: cannot read the image: truncated\nin two lines"), EvaluationImageError, "truncated\nin two"),
        (FileNotFoundError(errno.ENOENT, "No such file", "1.jpg"), EvaluationImageError, r"No such file: '1\.jpg'"),
        (SizeMismatchError("1.jpg: (3, 4), expected (4, 3)"), EvaluationImageError, r"1\.jpg: \(3, 4\), expected"),
        (MemoryError("1.jpg: not enough memory"), MachineError, "image: 1.jpg: not enough memory"),
        (OSError(errno.ESTALE, "Stale file handle", "1.jpg"), MachineError, r"Stale file handle: '1\.jpg'"),
    ],
    ids=["truncated", "absent", "size", "memory", "network"],
)
def test_an_image_that_cannot_be_evaluated_is_named_in_a_line(fault, kind, message, num_workers):
    """A traceback was all that a data worker's error said."""

    def fail(record: dict) -> dict:
        if record["file_name"] == "1.jpg":
            raise fault
        return record

    test_loader = build_detection_test_loader(list(RECORDS), mapper=fail, num_workers=num_workers)
    with pytest.raises(kind, match=message) as error:
        list(evaluation_batches(test_loader))
    assert "Traceback" not in str(error.value)


def test_batches_to_evaluate_are_those_of_the_loader():
    test_loader = build_detection_test_loader(list(RECORDS), mapper=lambda record: record, num_workers=1)
    assert list(evaluation_batches(test_loader)) == [[record] for record in RECORDS]


def test_a_rejected_record_is_replaced_and_not_counted():
    stream = loader(lambda record: None if record["file_name"] == "3.jpg" else record)
    assert all(x["file_name"] != "3.jpg" for batch in take(stream, 20) for x in batch)
    assert not stream.broken_images


class Stream(IterableDataset):
    def __iter__(self):
        return iter(RECORDS)


@pytest.mark.parametrize(
    ("dataset", "options", "message"),
    [
        (Stream(), {}, "has no position to resume from"),
        ([], {}, "the training set is empty"),
        (RECORDS, {"total_batch_size": 0}, "total_batch_size=0 cannot be shared by 1 processes"),
        ([{"file_name": "a.jpg", "width": 3}], {}, "needs the sizes of the images; a.jpg has no 'height'"),
    ],
)
def test_what_cannot_be_loaded(dataset, options, message):
    with pytest.raises(ValueError, match=message):
        build_train_loader(dataset, mapper=draw, **({"total_batch_size": 2} | options))
