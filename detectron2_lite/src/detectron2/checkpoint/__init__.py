"""Saving and loading of models and of the state of training."""

from __future__ import annotations

from detectron2._subset import missing
from fvcore.common.checkpoint import Checkpointer, PeriodicCheckpointer

from .detection_checkpoint import DetectionCheckpointer

__all__ = ["Checkpointer", "DetectionCheckpointer", "PeriodicCheckpointer"]

__getattr__ = missing(__name__)
