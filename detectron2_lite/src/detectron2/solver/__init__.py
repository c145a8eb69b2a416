"""Parameter groups and learning-rate schedules."""

from __future__ import annotations

from detectron2._subset import missing

from .build import get_default_optimizer_params
from .lr_scheduler import LRMultiplier, LRScheduler, WarmupParamScheduler

__all__ = ["LRMultiplier", "LRScheduler", "WarmupParamScheduler", "get_default_optimizer_params"]

__getattr__ = missing(__name__)
