"""Counted nouns, and text that terminals and files can hold."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detrex.utils.text import count_of, printable, short


@pytest.mark.parametrize(
    ("count", "noun", "text"),
    [
        (1, "image", "1 image"),
        (0, "image", "0 images"),
        (2, "box", "2 boxes"),
        (1, "box", "1 box"),
        (3, "class", "3 classes"),
        (2, "category", "2 categories"),
        (2, "query", "2 queries"),
        (2, "key", "2 keys"),
        (2, "image file", "2 image files"),
        (2, "batch", "2 batches"),
    ],
)
def test_one_is_not_many(count, noun, text):
    assert count_of(count, noun) == text


@given(st.text(alphabet=st.characters()))
def test_what_is_shown_can_be_shown(text):
    shown = printable(text)
    shown.encode()
    assert not {unicodedata.category(c) for c in shown} & {"Cc", "Cs", "Co", "Cn", "Zl", "Zp"}
    assert printable(shown) == shown
    if text.isprintable():
        assert shown == text


def test_what_belongs_to_a_script_stays():
    for name in ("赤い\u3000車", "क\u094d\u200dष", "e\u0301", "👩\u200d🚀", "red\u00a0cell"):
        assert printable(name) == name
    assert printable("\u202eevil\x1b[2J\ud800\n") == r"\u202eevil\x1b[2J\ud800\n"


def test_values_are_shortened():
    assert len(short("x" * 10_000)) <= 130
    assert short(10**5000) == "<int>"
    assert short("\x1b[31m\ud800") == r"'\x1b[31m\ud800'"
    assert short([[[[1]]]]) == "[[[...]]]"
