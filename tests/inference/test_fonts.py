"""Class names of any script in pictures: drawn, or escaped with the name of the missing font package."""

from __future__ import annotations

import numpy as np
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from hypothesis import given
from hypothesis import strategies as st

from detrex.inference import fonts
from detrex.inference.drawing import BoxLayer, draw_boxes
from detrex.inference.fonts import drawable, families_for, fitted
from detrex.utils.text import printable


@pytest.fixture(autouse=True)
def _fresh():
    def clear():
        for function in (fonts._fonts, fonts._font_with, fonts._characters, fonts._warn_missing):
            function.cache_clear()

    clear()
    yield
    clear()


@pytest.fixture
def only_own_font(monkeypatch):
    """A machine whose only font is the one that comes with Matplotlib."""
    own = fonts._fonts()[:1]
    monkeypatch.setattr(fonts, "_fonts", lambda: own)
    return own


@pytest.fixture
def chinese_font(tmp_path):
    """A font with Latin letters, digits and one Chinese character; a letter is a box, the character a triangle."""
    characters = [chr(c) for c in range(32, 127)] + ["\u732b"]
    names = [".notdef", *(f"g{ord(c)}" for c in characters)]
    builder = FontBuilder(1000, isTTF=True)
    builder.setupGlyphOrder(names)
    builder.setupCharacterMap({ord(c): f"g{ord(c)}" for c in characters})
    glyphs = {}
    for name in names:
        pen = TTGlyphPen(None)
        pen.moveTo((50, 0))
        for point in [(500, 900), (950, 0)] if name == f"g{0x732B}" else [(50, 700), (400, 700), (400, 0)]:
            pen.lineTo(point)
        pen.closePath()
        glyphs[name] = pen.glyph()
    builder.setupGlyf(glyphs)
    builder.setupHorizontalMetrics(dict.fromkeys(names, (1000, 0)))
    builder.setupHorizontalHeader(ascent=900, descent=-200)
    builder.setupNameTable({"familyName": "Tiny CJK", "styleName": "Regular"})
    builder.setupOS2()
    builder.setupPost()
    builder.save(tmp_path / "tiny.ttf")
    return str(tmp_path / "tiny.ttf"), "Tiny CJK"


def pixels(label: str) -> np.ndarray:
    layer = BoxLayer(np.array([[5.0, 60, 200, 90]]), [label], [0])
    return np.asarray(draw_boxes(np.full((100, 300, 3), 128, np.uint8), layer))


@pytest.mark.parametrize("name", ["Кошка", "chaîne", "Ωmega", "łódź"])
def test_cyrillic_greek_and_accents_are_drawn_on_every_machine(only_own_font, name):
    assert drawable(name) == name
    text, font = fitted(f"{name} 0.87", 12)
    assert text == f"{name} 0.87"
    masks = {bytes(font.getmask(c)) for c in name}
    assert bytes(font.getmask("\uffff")) not in masks  # the box of a missing glyph
    assert not np.array_equal(pixels(name), pixels("?" * len(name)))


def test_without_a_font_the_name_is_an_escape_and_the_package_is_named(only_own_font, caplog):
    assert drawable("猫 0.9") == r"\u732b 0.9"
    assert np.array_equal(pixels("猫犬"), pixels(r"\u732b\u72ac"))
    assert [r.message for r in caplog.records] == [
        "No font on this machine has CJK characters: pictures show them as escapes. Install a font, such as "
        "fonts-noto-cjk"
    ]
    assert families_for([drawable("猫")]) == ["DejaVu Sans"]


def test_a_font_of_the_machine_is_found_by_its_characters(only_own_font, chinese_font, monkeypatch):
    monkeypatch.setattr(fonts, "_fonts", lambda: [*only_own_font, chinese_font])
    text, font = fitted("猫 0.9", 12)
    assert (text, font.getname()[0]) == ("猫 0.9", "Tiny CJK")
    assert families_for(["猫", "cat"]) == ["DejaVu Sans", "Tiny CJK"]
    assert not np.array_equal(pixels("猫"), pixels("x"))
    # One font draws a text: what it lacks is an escape and no box.
    assert fitted("猫 Ж", 12)[0] in (r"猫 \u0416", r"\u732b Ж")


def test_ascii_looks_as_it_always_did():
    assert fitted("cat 0.87", 12)[1].getname() == ("Aileron", "Regular")


@given(text=st.text(st.characters() | st.sampled_from("猫\x1b\u202e\ud800é"), max_size=12))
def test_any_text_can_be_drawn_and_shown(text):
    assert printable(drawable(text)) == drawable(text)
    drawn, font = fitted(text, 12)
    drawn.encode("utf-8")
    font.getmask(drawn)
    if text.isascii() and text.isprintable():
        assert drawn == text
