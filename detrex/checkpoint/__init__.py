"""Checkpoints: reading files safely, matching them to a model, reporting what did not match."""

from .checkpointer import Checkpointer
from .dialects.errors import CheckpointError
from .locating import resolve_checkpoint
from .matching import LoadReport, map_class_rows, match_state
from .metadata import SECTIONS, checkpoint_metadata, read_metadata
from .reading import class_names, files_of, read_checkpoint, read_values, run_id_of
from .writing import replace_file, shard_optimizer_state

__all__ = [
    "SECTIONS",
    "CheckpointError",
    "Checkpointer",
    "LoadReport",
    "checkpoint_metadata",
    "class_names",
    "files_of",
    "map_class_rows",
    "match_state",
    "read_checkpoint",
    "read_metadata",
    "read_values",
    "replace_file",
    "resolve_checkpoint",
    "run_id_of",
    "shard_optimizer_state",
]
