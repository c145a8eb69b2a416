"""Image files that are more, or something else, than they seem: refused by name wherever images are opened."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from coco_files import SIZE
from PIL import Image

from detrex.data import DetrDatasetMapper, read_image
from detrex.data.checks import images as images
from detrex.data.checks.images import ImageFault, inspect_image, read_header

LIMIT = "decompression bomb|pixels; .* are safe"


def bomb(path: Path, width: int = 60_000, height: int = 60_000) -> Path:
    """A PNG of some hundred bytes that states 3.6 billion pixels."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes(1000))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b""))
    return path


def postscript(path: Path) -> Path:
    """An EPS, which Pillow would hand to Ghostscript, under an image's name."""
    path.write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 80 60\n%%EndComments\n(x) print\nshowpage\n%%EOF\n")
    return path


@pytest.mark.parametrize("make", [bomb, postscript])
def test_training_evaluation_and_prediction_refuse_it_by_name(make, tmp_path):
    """All three read through the mapper, or ``read_image``, which is the mapper's."""
    path = make(tmp_path / "photo.png")
    message = rf"photo\.png: cannot read the image: .*({LIMIT if make is bomb else 'cannot identify|cannot be read'})"
    for is_train in (True, False):
        mapper = DetrDatasetMapper(augmentation=[], is_train=is_train)
        with pytest.raises(OSError, match=message):
            mapper({"file_name": str(path), "width": SIZE[1], "height": SIZE[0], "annotations": []})
    with pytest.raises(OSError, match=message):
        read_image(str(path))


@pytest.mark.parametrize(("make", "kind"), [(bomb, "decompression-bomb"), (postscript, "unreadable-image")])
def test_the_check_refuses_it(make, kind, tmp_path):
    path = make(tmp_path / "photo.png")
    fault = inspect_image(str(path))
    assert isinstance(fault, ImageFault)
    assert fault.kind == kind
    with pytest.raises(ImageFault):
        read_header(path)


def test_the_limit_is_ours(tmp_path, monkeypatch):
    """A program that lifts Pillow's limit, as many do, does not lift this one."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    with pytest.raises(OSError, match=r"photo\.png.* has 60000 x 60000 pixels; 178956970 are safe"):
        read_image(str(bomb(tmp_path / "photo.png")))
    monkeypatch.setattr(images, "MAX_PIXELS", 80 * 60)
    Image.fromarray(np.zeros((60, 80, 3), np.uint8)).save(tmp_path / "just.png")
    Image.fromarray(np.zeros((60, 81, 3), np.uint8)).save(tmp_path / "more.png")
    assert read_image(str(tmp_path / "just.png")).shape == (60, 80, 3)
    with pytest.raises(OSError, match=r"more\.png.* has 81 x 60 pixels; 4800 are safe"):
        read_image(str(tmp_path / "more.png"))


@pytest.mark.parametrize("suffix", sorted(images.IMAGE_SUFFIXES))
def test_every_suffix_that_is_read_can_be_read(suffix, tmp_path):
    path = tmp_path / f"photo{suffix}"
    Image.fromarray(np.full((60, 80, 3), 100, np.uint8)).save(path)
    assert read_image(str(path)).shape == (60, 80, 3)
