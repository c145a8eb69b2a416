"""Files and folders of data sets: what a folder lists, under which spelling a file exists, and text files."""

from __future__ import annotations

import codecs
import json
import os
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from detrex.utils.regular_files import open_regular, raise_machine_fault

from .findings import DatasetError

CLUTTER = frozenset({"thumbs.db", "desktop.ini", "__macosx", "@eadir"})  # lower case; and all that starts with a dot


def is_inside(path: str, folder: str) -> bool:
    """Whether a path, as it is written and not as symbolic links lead, stays within ``folder``."""
    path, folder = os.path.abspath(path), os.path.abspath(folder)
    return os.path.commonpath([path, folder]) == folder


def is_clutter(name: str) -> bool:
    """Whether a file or folder is hidden or one that operating systems and archive programs leave behind."""
    return name.startswith(".") or name.lower() in CLUTTER


def list_folder(folder: str, suffixes: Sequence[str] = ("",)) -> list[str]:
    """Sorted names in a folder that end in one of the suffixes (lower case), without clutter; [] without a folder."""
    if not os.path.isdir(folder):
        return []
    return sorted(n for n in os.listdir(folder) if n.lower().endswith(tuple(suffixes)) and not is_clutter(n))


def list_files(folder: str, suffixes: frozenset[str] | None = None) -> list[str]:
    """Sorted paths of the files below ``folder`` with one of the suffixes (lower case), or all, without clutter.

    Links to folders are followed.

    Raises:
        OSError: a folder cannot be listed.
    """
    found, pending = [], [(folder, frozenset())] if os.path.isdir(folder) else []
    while pending:
        parent, above = pending.pop()
        real = os.path.realpath(parent)
        if real in above:  # a link to a folder that it is in
            continue
        for name in os.listdir(parent):
            path = os.path.join(parent, name)
            if is_clutter(name):
                continue
            if os.path.isdir(path):
                pending.append((path, above | {real}))
            elif suffixes is None or os.path.splitext(name)[1].lower() in suffixes:
                found.append(path)
    return sorted(found)


def same_name(name: str) -> str:
    """A key that is equal for names which differ by Unicode's composition (as on macOS) or the suffix's case only."""
    stem, suffix = os.path.splitext(unicodedata.normalize("NFC", name))
    return stem + suffix.lower()


class FileListing:
    """File existence by one directory listing per folder: 100,000 stat calls on a network disk take minutes."""

    def __init__(self) -> None:
        self._names: dict[str, frozenset[str] | None] = {}
        self._by_key: dict[str, dict[str, list[str]]] = {}

    def find(self, path: str) -> str | None:
        """The path, or the one existing path that it differs from as in ``same_name``; None if there is none."""
        folder, name = os.path.split(path)
        names = self._names_in(folder)
        if names is None:
            actual = self.find(folder) if name and folder not in ("", path) else None
            return self.find(os.path.join(actual, name)) if actual not in (None, folder) else None
        if name in names:
            return path
        if folder not in self._by_key:
            by_key = self._by_key[folder] = {}
            for other in names:
                by_key.setdefault(same_name(other), []).append(other)
        alike = self._by_key[folder].get(same_name(name), ())
        return os.path.join(folder, alike[0]) if len(alike) == 1 else None

    def _names_in(self, folder: str) -> frozenset[str] | None:
        if folder not in self._names:
            try:
                self._names[folder] = frozenset(os.listdir(folder or "."))
            except (OSError, ValueError) as e:  # ValueError: a NUL character in the name
                raise_machine_fault(e, folder)
                self._names[folder] = None
        return self._names[folder]


def rewritings(names: Sequence[str]) -> Iterator[Callable[[str], str]]:
    """What names in a list may mean where the list was written elsewhere, the most literal first.

    As they are; with "/" for "\\"; without one, two, ... of the folders that all begin with; without any folder, if the
    names then still differ.
    """
    yield lambda name: name
    parts = [name.replace("\\", "/").split("/") for name in names]
    folders = [p[:-1] for p in parts] or [[]]
    least, most = min(folders), max(folders)
    common = next((i for i, pair in enumerate(zip(least, most, strict=False)) if pair[0] != pair[1]), len(least))
    for count in range(common + 1):
        yield lambda name, count=count: "/".join(name.replace("\\", "/").split("/")[count:])
    if len({p[-1] for p in parts}) == len(set(names)):
        yield lambda name: name.replace("\\", "/").rpartition("/")[2]


def read_text(path: str, what: str = "text") -> str:
    """The text of an annotation file in UTF-8, or in UTF-16 if a byte-order mark says so.

    Args:
        path: of a regular file.
        what: the file is expected to be, for the message.

    Raises:
        DatasetError: there is no such file, or it is something else.
        OSError, MemoryError: the machine cannot read it.
    """
    try:
        with open_regular(path) as f:
            data = f.read()
        return data.decode("utf-16" if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig")
    except FileNotFoundError:
        raise DatasetError.of("unreadable-annotations", path, f"no such file; it should be {what}") from None
    except (OSError, ValueError) as e:
        raise_machine_fault(e, path)
        raise DatasetError.of("unreadable-annotations", path, f"cannot be read as {what}: {e}") from e


def read_json(path: str) -> Any:
    """The content of a json file; errors as for ``read_text``."""
    text = read_text(path, "json")
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as e:  # ValueError: no json, numbers of 4,300 digits
        raise DatasetError.of("unreadable-annotations", path, f"cannot be read as json: {e}") from e


def read_lines(path: str) -> list[str]:
    """The lines of a text file, stripped; errors as for ``read_text``."""
    return [line.strip() for line in read_text(path).replace("\r\n", "\n").replace("\r", "\n").split("\n")]
