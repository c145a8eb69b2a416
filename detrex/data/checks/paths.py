"""Paths that stand in annotation files: whether they exist, and whether they stay where they belong."""

from __future__ import annotations

import os


def is_inside(path: str, folder: str) -> bool:
    """Whether a path, as it is written and not as symbolic links lead, stays within ``folder``."""
    path, folder = os.path.abspath(path), os.path.abspath(folder)
    return os.path.commonpath([path, folder]) == folder


class FileListing:
    """File existence by one directory listing per folder: 100,000 stat calls on a network disk take minutes."""

    def __init__(self) -> None:
        self._folders: dict[str, frozenset[str]] = {}

    def has(self, path: str) -> bool:
        """Whether the path's folder lists its name."""
        folder, name = os.path.split(path)
        if folder not in self._folders:
            try:
                self._folders[folder] = frozenset(os.listdir(folder or "."))
            except (OSError, ValueError):  # ValueError: a NUL character in the name
                self._folders[folder] = frozenset()
        return name in self._folders[folder]


def list_files(folder: str, suffixes: frozenset[str]) -> list[str]:
    """Paths of the files below ``folder`` with one of the suffixes (lower case), sorted; hidden ones left out."""
    found = []
    for parent, folders, names in os.walk(folder):
        folders[:] = [n for n in folders if not n.startswith(".")]
        found += [
            os.path.join(parent, n)
            for n in names
            if not n.startswith(".") and os.path.splitext(n)[1].lower() in suffixes
        ]
    return sorted(found)
