"""The commands: one module with one main each."""
