"""Checkpoints: reading files safely, matching them to a model, reporting what did not match."""

from .checkpointer import Checkpointer
from .disk import replace_file
from .errors import CheckpointError
from .files import class_names, read_checkpoint, resolve_checkpoint, run_id_of
from .matching import LoadReport, map_class_rows, match_state
from .metadata import checkpoint_metadata
from .sharded import shard_optimizer_state

__all__ = [
    "CheckpointError",
    "Checkpointer",
    "LoadReport",
    "checkpoint_metadata",
    "class_names",
    "map_class_rows",
    "match_state",
    "read_checkpoint",
    "replace_file",
    "resolve_checkpoint",
    "run_id_of",
    "shard_optimizer_state",
]
