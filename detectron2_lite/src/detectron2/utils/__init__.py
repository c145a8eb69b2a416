"""Utilities: communication, events, logging, files. Nothing is imported here, so that each one loads alone."""

from __future__ import annotations

from detectron2._subset import missing

__getattr__ = missing(__name__)
