"""Checkpoints: reading files safely, matching them to a model, reporting what did not match."""

from .checkpointer import Checkpointer
from .files import CheckpointError, read_checkpoint, resolve_checkpoint
from .matching import LoadReport, match_state

__all__ = [
    "CheckpointError",
    "Checkpointer",
    "LoadReport",
    "match_state",
    "read_checkpoint",
    "resolve_checkpoint",
]
