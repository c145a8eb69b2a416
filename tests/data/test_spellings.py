"""Property: however files are spelt, encoded and littered, every image and every box is read, or the set is refused."""

from __future__ import annotations

import json
import tempfile
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from folders import SPLITS, WRITERS, Picture, pictures
from hypothesis import given, settings
from hypothesis import strategies as st

from detrex.data import CheckedData, DatasetError, check_source, open_folder

TEXTS = {".json", ".yaml", ".txt", ".xml", ".data", ".names"}
PER_IMAGE = {".txt", ".xml", ".json", ".png"}
NAME = unicodedata.normalize("NFC", "é{} Ångström")


@st.composite
def spellings(draw) -> dict:
    return {
        "layout": draw(st.sampled_from(sorted(WRITERS))),
        "encoding": draw(st.sampled_from(["utf-8", "utf-8", "utf-8-sig", "utf-16"])),
        "newline": draw(st.sampled_from(["\n", "\n", "\r\n"])),
        "disk": draw(st.sampled_from(["NFC", "NFD"])),
        "inside": draw(st.sampled_from(["NFC", "NFD"])),
        "upper": draw(st.sets(st.sampled_from(sorted(PER_IMAGE)))),
        "suffix": draw(st.sampled_from([".png", ".jfif", ".tif", ".jpe"])),
        "clutter": draw(st.booleans()),
        "numbers": draw(st.booleans()),
    }


def spell(root: Path, how: dict) -> None:
    """Rewrite a data set on disk."""
    for path in [p for p in root.rglob("*") if p.is_file()]:
        if path.suffix in TEXTS:
            text = path.read_text(encoding="utf-8")
            if path.suffix == ".json":
                text = json.dumps(as_text(json.loads(text)) if how["numbers"] else json.loads(text), ensure_ascii=False)
            elif how["numbers"] and path.suffix == ".txt" and text[:2].rstrip().isdigit():
                text = "".join(f"{line[0]}.0{line[1:]}\n" for line in text.splitlines())
            text = unicodedata.normalize(how["inside"], text).replace(".png", how["suffix"])
            path.write_bytes(text.replace("\n", how["newline"]).encode(how["encoding"]))
        own = any(path.name.startswith(n[0]) for n in (NAME, unicodedata.normalize("NFD", NAME)))
        if own or path.suffix == ".png":
            suffix = how["suffix"] if path.suffix == ".png" else path.suffix
            suffix = suffix.upper() if path.suffix in how["upper"] else suffix
            path.rename(path.with_name(unicodedata.normalize(how["disk"], path.stem) + suffix))
        if how["clutter"]:
            (path.parent / f"._{path.name}").write_bytes(b"\0\5\x16\7Mac OS X")
    if how["clutter"]:
        for folder in [root, *(p for p in root.rglob("*") if p.is_dir())]:
            for name in (".DS_Store", "Thumbs.db", "desktop.ini"):
                (folder / name).write_bytes(b"\0\1")
            (folder / "__MACOSX").mkdir()
            for name in ("train.json", "data.yaml", "a.xml", "a.png", "a.txt", "classes.txt"):
                (folder / "__MACOSX" / name).write_bytes(b"\0")


def as_text(content: dict) -> dict:
    """Ids and sizes as text and as 640.0."""
    for image in content.get("images", ()):
        image.update(id=str(image["id"]), width=float(image["width"]), height=str(image["height"]))
    for annotation in content.get("annotations", ()):
        annotation.update(image_id=float(annotation["image_id"]), category_id=str(annotation["category_id"]))
    for key in ("imageWidth", "imageHeight"):
        if key in content:
            content[key] = float(content[key])
    return content


def read_boxes(checked: CheckedData) -> dict[str, np.ndarray]:
    result = {}
    for data in checked.splits.values():
        for record in data.records:
            rows = sorted([a["category_id"], *a["bbox"]] for a in record["annotations"])
            result[unicodedata.normalize("NFC", Path(record["file_name"]).stem)] = np.array(rows)
    return result


@settings(max_examples=60, deadline=None)
@given(spellings())
def test_every_image_and_every_box_is_read(how):
    items = [Picture(NAME.format(i), p.pixels, p.boxes) for i, p in enumerate(pictures())]
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "data"
        root.mkdir()
        WRITERS[how["layout"]](root, items)
        spell(root, how)
        checked = check_source(open_folder(root))
        assert checked.trainable, checked.findings
        found = read_boxes(checked)
    assert found.keys() == {item.name for item in items}
    for item in items:
        expected = np.array(sorted([c, *box] for c, box in item.boxes), dtype=float)
        np.testing.assert_allclose(found[item.name], expected, atol=1e-4 if "yolo" in how["layout"] else 0)


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(sorted(WRITERS)),
    st.sets(st.integers(0, 8), min_size=1),
    st.sampled_from([".heic", ".avif", ".x", ""]),
)
def test_images_of_a_suffix_that_is_not_read_are_never_left_out_silently(layout, chosen, suffix):
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "data"
        root.mkdir()
        WRITERS[layout](root, pictures())
        for i in chosen:
            (path,) = root.rglob(f"p{i}.png")
            path.rename(path.with_suffix(suffix))
        try:
            checked = check_source(open_folder(root))
        except DatasetError:
            return
    assert not checked.trainable
    errors = " ".join(str(f) for f in checked.findings if f.is_error)
    for part, indices in SPLITS.items():
        gone = chosen & set(indices)
        assert all(f"p{i}" in errors for i in gone) or (gone == set(indices) and f"{part}: no images" in errors)


@pytest.mark.parametrize("layout", WRITERS)
def test_two_images_of_one_name_are_both_accounted_for(layout, tmp_path):
    """p0.png and p0.jpg: the one that is annotated is read, the other is named or read with the same boxes."""
    WRITERS[layout](tmp_path, pictures())
    (path,) = tmp_path.rglob("p0.png")
    path.with_suffix(".bmp").write_bytes(path.read_bytes())
    checked = check_source(open_folder(tmp_path))
    files = {Path(r["file_name"]).name: r for r in checked.splits["train"].records}
    assert "p0.png" in files
    named = " ".join(str(f) for f in checked.findings)
    if "p0.bmp" in files:
        assert files["p0.bmp"]["annotations"] == files["p0.png"]["annotations"]
    else:
        assert layout.startswith("coco") or layout == "yolo_cvat" or "p0.bmp" in named  # a list says what belongs
