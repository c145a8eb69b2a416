"""The error of this package."""

__all__ = ["CheckpointError"]


class CheckpointError(ValueError):
    """A checkpoint cannot be found, read or matched to the model; the message says what to do."""
