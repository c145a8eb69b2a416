"""The training loop, its hooks, and the launching of processes."""
# ruff: noqa: F403  -- each module lists its names once

from __future__ import annotations

from detectron2 import _subset

from .defaults import *
from .hooks import *
from .launch import *
from .train_loop import *

__getattr__ = _subset.missing(__name__)
