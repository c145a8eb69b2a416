"""The training loop, its hooks, and the launching of processes."""
# ruff: noqa: F403  -- each module lists its names once

from .defaults import *
from .hooks import *
from .launch import *
from .train_loop import *
