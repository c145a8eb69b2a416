"""Text for messages: counted nouns, and values of untrusted files in a form that can be shown."""

from __future__ import annotations

import reprlib
import unicodedata
from typing import Any

__all__ = ["count_of", "printable", "short"]

_JOINERS = "\u200c\u200d"
_REPR = reprlib.Repr()
_REPR.maxstring = _REPR.maxother = 120
_REPR.maxlevel, _REPR.maxlist, _REPR.maxdict, _REPR.maxlong = 2, 6, 4, 30


def count_of(count: int, noun: str) -> str:
    """A number with its noun: "1 image", "2 images", "0 boxes", "3 categories".

    Args:
        count: how many.
        noun: in the singular; its last word takes the plural.
    """
    if count == 1:
        return f"1 {noun}"
    if noun.endswith(("s", "x", "z", "ch", "sh")):
        return f"{count} {noun}es"
    if noun.endswith("y") and noun[-2:-1] not in "aeiou":
        return f"{count} {noun[:-1]}ies"
    return f"{count} {noun}s"


def short(value: Any) -> str:
    """``repr`` of a value from an untrusted file: of bounded length, control characters escaped."""
    try:
        return _REPR.repr(value)
    except ValueError:  # an integer of more digits than Python converts
        return f"<{type(value).__name__}>"


def printable(text: str) -> str:
    """Text without characters that a terminal obeys or that UTF-8 cannot hold: those are shown as escapes.

    Spaces of all widths stay, and so do the joiners that several scripts are written with.
    """
    return text if text.isprintable() else "".join(c if _is_printable(c) else ascii(c)[1:-1] for c in text)


def _is_printable(character: str) -> bool:
    return character.isprintable() or character in _JOINERS or unicodedata.category(character) == "Zs"
