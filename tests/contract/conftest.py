"""Which host is under test, and the tests that only the subset can pass."""

from __future__ import annotations

import logging

import detectron2
import pytest
import torch

LITE = getattr(detectron2, "__lite__", False)


def lite_only(reason: str) -> pytest.MarkDecorator:
    """Skip a test on the full detectron2; ``reason`` says what is wrong, or absent, there."""
    return pytest.mark.skipif(not LITE, reason=f"full detectron2: {reason}")


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture
def d2_log(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> pytest.LogCaptureFixture:
    """caplog that sees detectron2's and fvcore's loggers, which do not propagate once they are set up."""
    for name in ("detectron2", "fvcore"):
        monkeypatch.setattr(logging.getLogger(name), "propagate", True)
    caplog.set_level(logging.INFO)
    return caplog
