"""A run as one HTML page. ``tools/report.py`` is a thin shell around :func:`main`."""

from .page import main, write_report

__all__ = ["main", "write_report"]
