"""A few hundred inputs of the fuzzer, and all that it has found so far; `make fuzz` runs 100,000."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from .fuzz import CORPUS, prepared, run_inputs, time_limit
from .targets import TARGETS

FINDS = sorted(CORPUS.iterdir())


@pytest.mark.parametrize("name", TARGETS)
def test_inputs(name):
    outcomes = set()
    for data, result in run_inputs(name, 40, seed=1):
        assert isinstance(result, bool), f"{data[:500]!r}: {result!r}"
        outcomes.add(result)
    assert outcomes == {True, False}  # a fuzzer whose inputs are all refused at once would find nothing


@pytest.mark.parametrize("path", FINDS, ids=lambda path: path.name)
def test_what_was_found(path: Path):
    name = path.name.rpartition("-")[0]
    with prepared(name) as folder, time_limit():
        TARGETS[name].run(folder, path.read_bytes())


def test_the_record():
    """Of the last run of 100,000 inputs: of all targets, without a find."""
    record = json.loads((CORPUS.parent / "record.json").read_text())
    assert record["inputs"] >= 100_000
    assert record["finds"] == 0
    assert record["targets"].keys() <= TARGETS.keys()
