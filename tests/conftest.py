"""Fixtures of all tests."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))  # tests import tests/tiny.py as a module


pytest_plugins = ["data_fixtures", "detector_fixtures"]


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _no_handlers_of_closed_streams() -> None:
    """A run within an earlier test has its log go where that test's output went."""
    loggers = [logging.getLogger(name) for name in (None, *logging.root.manager.loggerDict)]
    for logger in loggers:
        for handler in list(logger.handlers):
            if getattr(getattr(handler, "stream", None), "closed", False):
                logger.removeHandler(handler)
