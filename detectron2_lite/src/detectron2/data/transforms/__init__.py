"""Transforms (deterministic, mostly fvcore's) and augmentations (random policies that choose them)."""
# ruff: noqa: F403  -- each module lists its names once

from fvcore.transforms.transform import *

from .augmentation import *
from .augmentation_impl import *
from .transform import *
