"""Utilities: communication, events, logging, files. Nothing is imported here, so that each one loads alone."""
