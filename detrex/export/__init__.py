"""Exported detectors: writing, running and comparing them."""
