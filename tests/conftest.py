"""Fixtures of all tests."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))  # tests import tests/tiny.py as a module


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)
