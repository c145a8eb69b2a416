"""Data set wrappers, loaders and their benchmark."""

from __future__ import annotations

import logging
import pickle
from itertools import islice

import pytest
import torch
from detectron2.data import (
    DatasetCatalog,
    DatasetFromList,
    MapDataset,
    MetadataCatalog,
    ToIterableDataset,
    build_detection_test_loader,
    build_detection_train_loader,
    get_detection_dataset_dicts,
)
from detectron2.data.benchmark import DataLoaderBenchmark
from detectron2.data.build import build_batch_data_loader, trivial_batch_collator, worker_init_reset_seed
from detectron2.data.common import AspectRatioGroupedDataset
from detectron2.data.samplers import TrainingSampler
from torch.utils.data import Dataset, IterableDataset

from .conftest import lite_only

RECORDS = [{"i": i, "width": 10 + 10 * (i % 2), "height": 15} for i in range(12)]


class Stream(IterableDataset):
    def __iter__(self):
        yield from range(10)


@pytest.mark.parametrize("serialize", [True, False])
def test_elements_of_a_list_can_be_changed(serialize) -> None:
    dataset = DatasetFromList([{"x": [i]} for i in range(4)], serialize=serialize)
    dataset[2]["x"].append(9)
    assert dataset[2] == {"x": [2]}
    assert len(dataset) == 4
    assert [element["x"] for element in pickle.loads(pickle.dumps(dataset))] == [[0], [1], [2], [3]]
    with pytest.raises(IndexError):
        dataset[4]


def test_own_serialization() -> None:
    assert DatasetFromList([1, 2], serialize=lambda lst: tuple(x * 10 for x in lst))[1] == 20
    with pytest.raises(TypeError):
        DatasetFromList([1], serialize="yes")


@lite_only("an empty list cannot be serialized")
def test_an_empty_list() -> None:
    assert len(DatasetFromList([])) == 0


def test_map_dataset() -> None:
    dataset = MapDataset(list(range(10)), lambda x: x * 2 if x % 3 else None)
    assert (len(dataset), dataset[4]) == (10, 8)
    assert dataset[0] in {2 * x for x in range(10) if x % 3}
    assert pickle.loads(pickle.dumps(dataset))[4] == 8  # a lambda too
    stream = MapDataset(Stream(), lambda x: x if x % 3 else None)
    assert isinstance(stream, IterableDataset)
    assert list(stream) == [1, 2, 4, 5, 7, 8]


@lite_only("fails in random.sample without naming the mapper")
def test_a_mapper_that_rejects_everything() -> None:
    with pytest.raises(RuntimeError, match="all 3 elements"):
        MapDataset([1, 2, 3], lambda x: None)[0]


def test_to_iterable() -> None:
    dataset = ToIterableDataset(RECORDS, TrainingSampler(12, shuffle=False))
    assert [d["i"] for d in islice(dataset, 14)] == [*range(12), 0, 1]
    with pytest.raises(AssertionError):
        ToIterableDataset(Stream(), TrainingSampler(3))
    with pytest.raises(AssertionError):
        ToIterableDataset(RECORDS, [1, 2])


def test_grouping_by_aspect_ratio() -> None:
    batches = list(AspectRatioGroupedDataset(RECORDS, 4))
    assert [[d["i"] for d in batch] for batch in batches] == [[0, 2, 4, 6], [1, 3, 5, 7]]


def test_train_loader_is_endless_and_batched() -> None:
    loader = build_detection_train_loader(
        list(RECORDS),
        mapper=None,
        total_batch_size=3,
        aspect_ratio_grouping=False,
        sampler=TrainingSampler(12, shuffle=False),
    )
    batches = list(islice(loader, 6))
    assert [d["i"] for batch in batches[:4] for d in batch] == list(range(12))
    assert [d["i"] for d in batches[4]] == [0, 1, 2]


@pytest.mark.parametrize("grouping", [True, False])
def test_workers_deal_out_whole_batches(grouping) -> None:
    """Two workers together give the elements of one pass once; the order of each worker is the sampler's."""
    loader = build_detection_train_loader(
        list(RECORDS),
        mapper=lambda d: d | {"worker": torch.utils.data.get_worker_info().id},
        sampler=TrainingSampler(12, shuffle=False),
        total_batch_size=2,
        aspect_ratio_grouping=grouping,
        num_workers=2,
        prefetch_factor=1,
    )
    batches = list(islice(loader, 6))
    assert sorted(d["i"] for batch in batches for d in batch) == list(range(12))
    if grouping:
        assert all(len({d["width"] for d in batch}) == 1 for batch in batches)
    else:
        assert [(d["i"], d["worker"]) for batch in batches[:2] for d in batch] == [(0, 0), (1, 0), (2, 1), (3, 1)]


def test_train_loader_options() -> None:
    loader = build_detection_train_loader(
        list(RECORDS), mapper=lambda d: d["i"], total_batch_size=2, aspect_ratio_grouping=False, collate_fn=sum
    )
    assert isinstance(next(iter(loader)), int)
    grouped = build_detection_train_loader(list(RECORDS), mapper=None, total_batch_size=2, collate_fn=len)
    assert next(iter(grouped)) == 2
    stream = build_detection_train_loader(Stream(), mapper=None, total_batch_size=5, aspect_ratio_grouping=False)
    assert next(iter(stream)) == [0, 1, 2, 3, 4]
    with pytest.raises(AssertionError):
        build_detection_train_loader(Stream(), mapper=None, total_batch_size=5, sampler=TrainingSampler(3))


def test_batch_sizes(monkeypatch) -> None:
    sampler = TrainingSampler(12, shuffle=False)
    loader = build_batch_data_loader(RECORDS, sampler, None, single_gpu_batch_size=5)
    assert len(next(iter(loader))) == 5
    with pytest.raises(ValueError, match="total_batch_size"):
        build_batch_data_loader(RECORDS, sampler, 4, single_gpu_batch_size=5)
    monkeypatch.setattr("detectron2.data.build.get_world_size", lambda: 2)
    assert len(next(iter(build_batch_data_loader(RECORDS, sampler, 6)))) == 3
    with pytest.raises(AssertionError, match="divisible"):
        build_batch_data_loader(RECORDS, sampler, 5)


def test_test_loader() -> None:
    loader = build_detection_test_loader(list(RECORDS), mapper=lambda d: d["i"], batch_size=5)
    assert len(loader) == 3
    assert list(loader) == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9], [10, 11]]
    assert list(build_detection_test_loader(list(RECORDS), mapper=lambda d: d["i"]))[3] == [3]


def test_small_functions() -> None:
    assert trivial_batch_collator([1, 2]) == [1, 2]
    torch.manual_seed(7)
    worker_init_reset_seed(3)
    assert torch.initial_seed() == 10


@pytest.fixture
def registered():
    def register(name: str, dataset, **metadata) -> str:
        DatasetCatalog.register(name, lambda: dataset)
        MetadataCatalog.get(name).set(**metadata)
        names.append(name)
        return name

    names: list[str] = []
    yield register
    for name in names:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def _image(*categories: int, crowd: int = 0) -> dict:
    return {"annotations": [{"category_id": c, "iscrowd": crowd} for c in categories]}


def test_dataset_dicts(registered, d2_log) -> None:
    images = [_image(0, 1), _image(), _image(1, crowd=1), _image(1)]
    one = registered("contract_one", images, thing_classes=["a cat", "a dog with a long name"])
    two = registered("contract_two", [_image(0)], thing_classes=["a cat", "a dog with a long name"])
    assert len(get_detection_dataset_dicts(one)) == 2
    assert len(get_detection_dataset_dicts([one, two])) == 3
    assert len(get_detection_dataset_dicts(one, filter_empty=False)) == 4
    messages = " ".join(r.getMessage() for r in d2_log.records)
    assert "a dog with .." in messages
    assert "Removed 2 images" in messages
    with pytest.raises(KeyError):
        get_detection_dataset_dicts("contract_none")


def test_dataset_dicts_that_do_not_fit(registered) -> None:
    one = registered("contract_one", [_image(0)], thing_classes=["a"])
    other = registered("contract_other", [_image(0)], thing_classes=["b"])
    empty = registered("contract_empty", [])
    crowds = registered("contract_crowds", [_image(0, crowd=1)])
    wrong = registered("contract_wrong", [_image(3)], thing_classes=["a"])
    with pytest.raises(ValueError, match="thing_classes"):
        get_detection_dataset_dicts([one, other])
    assert len(get_detection_dataset_dicts([one, other], check_consistency=False)) == 2
    for name in (empty, crowds, wrong):
        with pytest.raises(AssertionError):
            get_detection_dataset_dicts(name)


def test_registered_torch_data_sets(registered) -> None:
    class Squares(Dataset):
        def __len__(self) -> int:
            return 3

        def __getitem__(self, i: int) -> int:
            return i * i

    one, two = registered("contract_squares", Squares()), registered("contract_squares2", Squares())
    assert isinstance(get_detection_dataset_dicts(one), Squares)
    assert len(get_detection_dataset_dicts([one, two])) == 6


@lite_only("np.percentile(interpolation=) is gone from numpy 2")
def test_benchmark(d2_log, capsys) -> None:
    benchmark = DataLoaderBenchmark(list(RECORDS), mapper=lambda d: d, total_batch_size=2, num_workers=0)
    benchmark.benchmark_dataset(20)
    benchmark.benchmark_mapper(20)
    benchmark.benchmark_IPC(4, warmup=1)
    benchmark.benchmark_distributed(4, warmup=1)
    lines = [r.getMessage() for r in d2_log.records if r.levelno == logging.INFO and "avg=" in r.getMessage()]
    assert [line.split(":")[0] for line in lines] == [
        "Dataset Alone",
        "Single Process Mapper (sec/sample)",
        "DataLoader (0 workers, bs=2) w/o comm",
        "GPU0 DataLoader (1 GPUs x 0 workers, total bs=2)",
    ]
    assert all("p1=" in line and "p99=" in line for line in lines)


@lite_only("np.percentile(interpolation=) is gone from numpy 2")
def test_benchmark_of_workers_and_its_time_limit(d2_log, capsys) -> None:
    benchmark = DataLoaderBenchmark(list(RECORDS), mapper=lambda d: d, total_batch_size=2, max_time_seconds=0)
    benchmark.benchmark_workers(1000, warmup=1)
    lines = [r.getMessage() for r in d2_log.records if "workers" in r.getMessage()]
    assert len(lines) == 2
