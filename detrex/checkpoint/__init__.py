"""Checkpoints: reading files safely, matching them to a model, reporting what did not match."""

from .checkpointer import Checkpointer
from .errors import CheckpointError
from .files import class_names, read_checkpoint, resolve_checkpoint
from .matching import LoadReport, match_state

__all__ = [
    "CheckpointError",
    "Checkpointer",
    "LoadReport",
    "class_names",
    "match_state",
    "read_checkpoint",
    "resolve_checkpoint",
]
