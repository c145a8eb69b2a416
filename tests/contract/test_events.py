"""The event storage and its writers."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.utils.events import (
    CommonMetricPrinter,
    EventStorage,
    JSONWriter,
    TensorboardXWriter,
    get_event_storage,
    has_event_storage,
)

from .conftest import lite_only


def _lines(path: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_stack_of_storages() -> None:
    assert not has_event_storage()
    with pytest.raises(AssertionError):
        get_event_storage()
    with EventStorage(10) as outer:
        assert outer.iter == outer.iteration == 10
        with EventStorage() as inner:
            assert get_event_storage() is inner
        assert get_event_storage() is outer
    assert not has_event_storage()
    with pytest.raises(RuntimeError), EventStorage():
        raise RuntimeError
    assert not has_event_storage()


def test_scalars_and_their_history() -> None:
    storage = EventStorage()
    for iteration in range(3):
        storage.iter = iteration
        storage.put_scalar("a", torch.tensor(float(iteration)))
        storage.put_scalars(b=iteration, c=1, smoothing_hint=False)
    storage.put_scalar("late", 5, cur_iter=1)
    assert storage.latest() == {"a": (2.0, 2), "b": (2.0, 2), "c": (1.0, 2), "late": (5.0, 1)}
    assert storage.history("a").values() == [(0.0, 0), (1.0, 1), (2.0, 2)]
    assert set(storage.histories()) == {"a", "b", "c", "late"}
    assert storage.smoothing_hints()["b"] is False
    with pytest.raises(KeyError, match="absent"):
        storage.history("absent")
    with pytest.raises(AssertionError, match="smoothing_hint"):
        storage.put_scalar("a", 1, smoothing_hint=False)
    storage.step()
    assert storage.iter == 3


def test_smoothing_is_over_iterations_not_samples() -> None:
    storage = EventStorage()
    for iteration, value in [(0, 100), (10, 1), (10, 3), (11, 5)]:
        storage.put_scalar("smooth", value, cur_iter=iteration)
        storage.put_scalar("raw", value, smoothing_hint=False, cur_iter=iteration)
    assert storage.count_samples("smooth", 2) == 3
    assert storage.latest_with_smoothing_hint(2) == {"smooth": (3, 11), "raw": (5, 11)}
    assert storage.latest_with_smoothing_hint(20)["smooth"] == (4, 11)


def test_name_scope() -> None:
    storage = EventStorage()
    with storage.name_scope("outer/"):
        storage.put_scalar("x", 1)
    storage.put_scalar("x", 2)
    assert storage.latest() == {"outer/x": (1.0, 0), "x": (2.0, 0)}


@lite_only("the prefix stays after an exception")
def test_name_scope_ends_with_an_exception() -> None:
    storage = EventStorage()
    with pytest.raises(RuntimeError), storage.name_scope("outer"):
        raise RuntimeError
    storage.put_scalar("x", 1)
    assert set(storage.latest()) == {"x"}


def test_histogram() -> None:
    storage = EventStorage(7)
    storage.put_histogram("h", torch.tensor([0.0, 1.0, 1.0, 4.0]), bins=4)
    (histogram,) = storage._histograms
    assert histogram["bucket_counts"] == [1, 2, 0, 1]
    assert histogram["bucket_limits"] == [1, 2, 3, 4]
    assert (histogram["min"], histogram["max"], histogram["num"], histogram["sum"]) == (0, 4, 4, 6)
    assert (histogram["sum_squares"], histogram["global_step"]) == (18, 7)
    storage.clear_histograms()
    assert not storage._histograms


def test_json_writer_writes_what_is_new_by_iteration(tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    writer = JSONWriter(str(path))
    with EventStorage() as storage:
        storage.put_scalars(b=1, a=2)
        storage.put_scalar("early", 3, cur_iter=-0)
        writer.write()
        writer.write()  # nothing new
        storage.iter = 5
        storage.put_scalar("a", 4)
        storage.put_scalar("between", 1, cur_iter=3)
        writer.write()
    writer.close()
    assert sorted(_lines(path), key=lambda line: line["iteration"]) == [
        {"a": 2, "b": 1, "early": 3, "iteration": 0},
        {"between": 1, "iteration": 3},
        {"a": 3, "iteration": 5},  # the median of 2 and 4
    ]
    assert path.read_text().startswith('{"a": 2.0, "b": 1.0, "early": 3.0, "iteration": 0}\n')


def test_json_writer_continues_a_file(tmp_path: Path) -> None:
    for iteration in range(2):
        writer = JSONWriter(str(tmp_path / "m.json"))
        with EventStorage(iteration) as storage:
            storage.put_scalar("x", 1)
            writer.write()
        writer.close()
    assert [line["iteration"] for line in _lines(tmp_path / "m.json")] == [0, 1]


@lite_only("bare NaN, which is not JSON")
def test_json_writer_writes_null_for_undefined_values(tmp_path: Path) -> None:
    writer = JSONWriter(str(tmp_path / "m.json"))
    with EventStorage() as storage:
        storage.put_scalars(nan=math.nan, inf=-math.inf, x=1, smoothing_hint=False)
        writer.write()
    writer.close()

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    line = json.loads((tmp_path / "m.json").read_text(), parse_constant=refuse)
    assert line == {"nan": None, "inf": None, "x": 1, "iteration": 0}


def test_console_line(d2_log: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    printer = CommonMetricPrinter(max_iter=101)
    with EventStorage(9) as storage:
        storage.put_scalars(total_loss=1.23456, loss_b=0.5, other=3, time=2.0, data_time=0.25)
        storage.put_scalar("[metric]acc", 0.75)
        storage.put_scalar("lr", 1e-4, smoothing_hint=False)
        printer.write()
        assert storage.latest()["eta_seconds"] == (182.0, 9)
        storage.iter = 101
        printer.write()
    assert d2_log.messages == [
        " eta: 0:03:02  iter: 9  total_loss: 1.235  loss_b: 0.5  [metric]acc: 0.75  time: 2.0000  last_time: 2.0000  "
        "data_time: 0.2500  last_data_time: 0.2500   lr: 0.0001  "
    ]


def test_console_line_with_little_to_say(d2_log: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with EventStorage(4):
        CommonMetricPrinter().write()
        assert len(d2_log.messages) == 1
    assert d2_log.messages[0].split() == ["iter:", "4", "lr:", "N/A"]


def test_eta_without_a_timer(d2_log: pytest.LogCaptureFixture) -> None:
    printer = CommonMetricPrinter(max_iter=1000)
    with EventStorage() as storage:
        printer.write()
        storage.iter = 10
        printer.write()
    assert "eta" not in d2_log.messages[0]
    assert "eta: 0:00:0" in d2_log.messages[1]


@lite_only("ZeroDivisionError without a timer")
def test_printing_the_same_iteration_twice(d2_log: pytest.LogCaptureFixture) -> None:
    printer = CommonMetricPrinter(max_iter=1000)
    with EventStorage():
        printer.write()
        printer.write()
    assert len(d2_log.messages) == 2


def test_tensorboard_file_is_created_by_the_first_write(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    unused = TensorboardXWriter(str(tmp_path / "unused"))
    unused.close()
    assert not (tmp_path / "unused").exists()

    writer = TensorboardXWriter(str(tmp_path / "used"))
    with EventStorage(3) as storage:
        storage.put_scalar("x", 2)
        storage.put_image("img", np.zeros((3, 4, 5), dtype=np.uint8))
        storage.put_histogram("h", torch.arange(5.0))
        writer.write()
        assert not storage._vis_data
        assert not storage._histograms
        storage.iter = 4
        storage.put_scalar("x", 4)
        writer.write()
    writer.close()
    events = EventAccumulator(str(tmp_path / "used")).Reload()
    assert [(event.step, event.value) for event in events.Scalars("x")] == [(3, 2), (4, 3)]
    assert events.Tags()["images"] == ["img"]
    assert events.Tags()["histograms"] == ["h"]
