"""Parameters, FLOPs and speed of a detector."""
