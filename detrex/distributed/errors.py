"""Errors of the machine that a job runs on."""

__all__ = ["MachineError"]


class MachineError(RuntimeError):
    """Memory ran out or a process died: the machine's fault, or that of asking too much of it."""
