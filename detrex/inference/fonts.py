"""Fonts for the text in pictures and charts: every character is drawn or escaped, none becomes an empty box."""

from __future__ import annotations

import functools
import logging
import string
import unicodedata
from collections.abc import Iterable

from PIL import ImageFont

from detrex.utils.text import printable

__all__ = ["drawable", "families_for", "fitted"]

logger = logging.getLogger(__name__)

# By the first word of a character's Unicode name. Package names are those of Debian; other systems have similar ones.
_PACKAGES = {"CJK": "fonts-noto-cjk", "HIRAGANA": "fonts-noto-cjk", "KATAKANA": "fonts-noto-cjk",
             "HANGUL": "fonts-noto-cjk", "FULLWIDTH": "fonts-noto-cjk"}  # fmt: skip


def drawable(text: str) -> str:
    """Text in which every character that no font on this machine has, or that a terminal obeys, is an escape.

    A message names the font package that is missing, once for each script.
    """
    return "".join(c if c.isascii() or _font_with(c) else _escaped(c) for c in printable(text))


def fitted(text: str, size: int) -> tuple[str, ImageFont.FreeTypeFont | ImageFont.ImageFont]:
    """Text and a font that draws all of it; what is :func:`drawable`, but not with the same font, is an escape.

    Args:
        text: to draw with Pillow.
        size: in pixels.
    """
    text = drawable(text)
    files = dict.fromkeys(_font_with(c)[0] for c in text if not c.isascii())
    if not files:
        return text, ImageFont.load_default(size=size)
    best = max(files, key=lambda file: len(_characters(file).intersection(text)))
    text = "".join(c if c in _characters(best) else ascii(c)[1:-1] for c in text)
    return text, ImageFont.truetype(best, size)


def families_for(texts: Iterable[str]) -> list[str]:
    """Families for Matplotlib's ``font.family`` that together have all characters of :func:`drawable` texts."""
    found = (_font_with(c) for c in sorted({c for text in texts for c in text if not c.isascii()}))
    return list(dict.fromkeys(["DejaVu Sans", *(font[1] for font in found if font)]))


@functools.lru_cache(maxsize=4096)
def _font_with(character: str) -> tuple[str, str] | None:
    """(file, family) of the first font that has a character: Matplotlib's own before the system's."""
    return next((font for font in _fonts() if character in _characters(font[0])), None)


@functools.cache
def _fonts() -> list[tuple[str, str]]:
    from matplotlib import font_manager

    own = font_manager.findfont("DejaVu Sans")
    regular = [f for f in font_manager.fontManager.ttflist if f.style == "normal" and 300 <= _weight(f.weight) <= 500]
    others = sorted((f.fname, f.name) for f in regular if "Last Resort" not in f.name and f.fname != own)
    return [(own, "DejaVu Sans"), *others]


def _weight(weight: int | str) -> int:
    return weight if isinstance(weight, int) else {"light": 300, "normal": 400, "regular": 400}.get(weight, 700)


@functools.lru_cache(maxsize=512)
def _characters(file: str) -> frozenset[str]:
    """Those of a font; none of a font without Latin, since scores stand beside names."""
    from matplotlib.ft2font import FT2Font

    try:
        found = frozenset(map(chr, FT2Font(file).get_charmap()))
    except (OSError, RuntimeError, ValueError):  # a font that FreeType cannot read
        return frozenset()
    return found if found.issuperset(string.ascii_letters + string.digits) else frozenset()


def _escaped(character: str) -> str:
    is_letter = unicodedata.category(character).startswith("L")
    _warn_missing(unicodedata.name(character, "unknown").split()[0] if is_letter else "some")
    return ascii(character)[1:-1]


@functools.cache
def _warn_missing(script: str) -> None:
    package = _PACKAGES.get(script, "one of the fonts-noto packages")
    logger.warning(
        "No font on this machine has %s characters: pictures show them as escapes. Install a font, such as %s",
        script, package,
    )  # fmt: skip
