"""Optimizer recipes: parameter groups and learning-rate schedules."""

from .lr_schedule import resolve_durations, with_warmup
from .param_groups import LRFactors, build_optimizer

__all__ = ["LRFactors", "build_optimizer", "resolve_durations", "with_warmup"]
