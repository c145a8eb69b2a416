"""The error of this package, and names of tensors in its messages."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

__all__ = ["CheckpointError", "listing"]


class CheckpointError(ValueError):
    """A checkpoint cannot be found, read or matched to the model; the message says what to do."""


def listing(names: Iterable[str] | Mapping[str, str], limit: int = 8) -> str:
    """Names that differ in numbers alone become one with ``*`` and their count; at most ``limit`` are written out.

    Args:
        names: or name -> a note, written after it; names are put together only where the notes agree.
        limit: of names after that.
    """
    notes = names if isinstance(names, Mapping) else dict.fromkeys(names, "")
    groups: dict[tuple[str, str], list[str]] = {}
    for name, note in notes.items():
        groups.setdefault((re.sub(r"\d+", "*", name), note), []).append(name)
    texts = []
    for (pattern, note), members in groups.items():
        text = members[0] if len(members) == 1 else f"{pattern} ({len(members)})"
        texts.append(f"{text} {note}" if note else text)
    more = f", ... {len(texts) - limit} more" if len(texts) > limit else ""
    return ", ".join(texts[:limit]) + more
