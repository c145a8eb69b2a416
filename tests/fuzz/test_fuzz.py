"""A few hundred inputs of the fuzzer, and all that it has found so far; `make fuzz` runs 100,000."""

from __future__ import annotations

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
