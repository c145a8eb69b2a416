"""Files of a few bytes that would take all memory or time of their reader, or crash it, are errors of ours."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from detrex.checkpoint import Checkpointer, CheckpointError, read_checkpoint
from detrex.config import ConfigError
from detrex.inference.detector import Detector
from tests.checkpoint import bombs

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memory is limited by Linux's means")

FILES = [*bombs.PROGRAMS, *(f"{label}, in an archive" for label in bombs.PROGRAMS), *bombs.archives()]
HARMLESS = {"an overflowing size"}  # of no elements


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory) -> dict[str, tuple[str, float]]:
    folder = tmp_path_factory.mktemp("bombs")
    files = bombs.write_bombs(folder)
    assert files.keys() == set(FILES)
    command = [sys.executable, "-m", "tests.checkpoint.bombs", str(folder)]
    root = Path(__file__).parents[2]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, f"the reader ended with {done.returncode}: {done.stderr[-2000:]}"
    results = json.loads(done.stdout.splitlines()[-1])
    return {label: results[name] for label, name in files.items()}


@pytest.mark.parametrize("label", FILES)
def test_a_small_file_is_refused_in_bounded_time_and_memory(label, outcomes):
    outcome, seconds = outcomes[label]
    assert outcome == "read" if label in HARMLESS else outcome.startswith("refused: checkpoint "), outcome
    assert seconds < bombs.SECONDS


@pytest.mark.parametrize("kind", ["sparse", "quantized", "meta", "nested"])
def test_tensors_of_other_kinds_are_named(kind, outcomes):
    assert f"holds a {kind} tensor; only dense tensors with data can be read" in outcomes[f"a {kind} tensor"][0]


def test_one_directory_of_an_archive_counts(tmp_path):
    """Two archives one after the other: readers that look for another end would find other records."""
    first, second = bombs.saved({"model": {"a": torch.zeros(1 << 20)}}), bombs.saved({"model": {"a": torch.ones(2)}})
    (tmp_path / "a.pth").write_bytes(first + second)
    assert read_checkpoint(str(tmp_path / "a.pth"))["model"]["a"].tolist() == [1, 1]


# -------------------------------------------------------------------------------------------------- no regular file
@pytest.mark.parametrize("suffix", [".pth", ".pkl", ".safetensors", ".safetensors.index.json"])
@pytest.mark.parametrize("kind", ["a named pipe", "a socket", "a device", "a directory"])
def test_what_is_no_regular_file_is_not_waited_for(kind, suffix, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # names of sockets are short
    path = Path(f"model{suffix}")
    if kind == "a named pipe":
        os.mkfifo(path)
    elif kind == "a device":
        path.symlink_to("/dev/zero")
    elif kind == "a directory":
        path.mkdir()
    with socket.socket(socket.AF_UNIX) as server:
        if kind == "a socket":
            server.bind(str(path))
        with pytest.raises(CheckpointError, match=rf"model{suffix}"):
            read_checkpoint(str(path))
        with pytest.raises(CheckpointError, match=rf"model{suffix}"):
            Checkpointer(torch.nn.Linear(1, 1)).load(str(path))


# ---------------------------------------------------------------------------- numbers and values that no run can use
@pytest.mark.parametrize(
    ("value", "why"),
    [
        (torch.tensor([1.0, float("nan")]), "NaN or infinite"),
        (torch.tensor([1.0, float("inf")]), "NaN or infinite"),
        (torch.tensor([1.0, float("nan")], dtype=torch.float8_e5m2), "NaN or infinite"),
        (torch.tensor([1.0, 2.0], dtype=torch.complex64), r"torch\.complex64 instead of torch\.float32"),
        (torch.tensor([1, 2], dtype=torch.int8), r"torch\.int8 instead of torch\.float32"),
    ],
)
def test_numbers_that_the_model_cannot_have(value, why, tmp_path):
    model = torch.nn.LayerNorm(2)
    torch.save({"model": {"weight": value, "bias": torch.zeros(2)}}, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=rf"1 with numbers that the model cannot have: weight \({why}\)"):
        Checkpointer(model).load(str(tmp_path / "a.pth"))
    checkpointer = Checkpointer(model, strict=False)
    checkpointer.load(str(tmp_path / "a.pth"))
    assert checkpointer.report.unusable[0][0] == "weight"
    assert model.weight.tolist() == [1, 1]


def test_large_numbers_are_numbers(tmp_path):
    """Whose sum is infinite in half precision."""
    torch.save({"weight": torch.full((1000,), 6e4, dtype=torch.float16), "bias": torch.zeros(1000)}, tmp_path / "a.pth")
    model = torch.nn.LayerNorm(1000)
    Checkpointer(model).load(str(tmp_path / "a.pth"))
    assert model.weight.max() > 5e4


MAPPER = {"_target_": "detrex.data.DetrDatasetMapper", "augmentation": [], "is_train": False}
REST = {"dataloader": {"test": {"mapper": MAPPER}}, "train": {"optimizations": {"evaluation": "none"}}}
LINEAR = {"_target_": "torch.nn.Linear", "in_features": 1, "out_features": 1}
METADATA: list[object] = [
    *(None, 3, "text", [1], {}),
    *({"category_ids": value, "config": REST | {"model": LINEAR}} for value in (3, "ab", [None], [[1]], {"a": 1})),
    *({"class_names": value} for value in ([["a"]], [None], [{}])),
    *({"config": value} for value in (3, "text", [], {}, {"model": 3}, {"model": []}, {3: 4}, {"model": None})),
    *({"config": REST | {"model": value}} for value in (3, "???", [LINEAR], {}, {"_name_": "torch.nn.Linear"})),
    {"config": REST | {"model": {**LINEAR, "in_features": "a"}}},
    {"config": REST | {"model": {**LINEAR, "in_features": 1 << 30, "out_features": 1 << 20}}},
    {"config": REST | {"model": {"_target_": "torch.nn.Linear"}}},
    {"config": REST | {"model": LINEAR, "dataloader": 5}},
    {"config": REST | {"model": LINEAR, "dataloader": {"test": {"mapper": LINEAR}}, "train": [1]}},
]


@pytest.mark.parametrize("metadata", METADATA, ids=lambda value: str(value)[:60])
def test_odd_metadata_are_errors_of_ours(metadata, tmp_path):
    state = torch.nn.Linear(1, 1).state_dict()
    torch.save({"model": state, "weights": [], "metadata": metadata}, tmp_path / "odd.pth")
    with pytest.raises((CheckpointError, ConfigError), match=r"odd\.pth|class names in the checkpoint"):
        Detector.from_checkpoint(tmp_path / "odd.pth", device="cpu")


@pytest.mark.parametrize("state", [3, [], {"x": 1}, None, "text"])
def test_what_belongs_to_a_run_and_does_not_fit_it(state, tmp_path):
    model = torch.nn.Linear(1, 1)
    torch.save({"model": model.state_dict(), "optimizer": state}, tmp_path / "a.pth")
    checkpointer = Checkpointer(model, optimizer=torch.optim.SGD(model.parameters(), lr=0.1))
    with pytest.raises(CheckpointError, match=r"a\.pth: what it keeps as 'optimizer' does not fit this run"):
        checkpointer.load(str(tmp_path / "a.pth"))
