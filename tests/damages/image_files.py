"""Image files, much the same in every format."""

from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path

import numpy as np
from folders import HEIGHT, WIDTH
from PIL import Image

from .damage import damage


@damage("coco", "unreadable-image", "p0.png")
def image_empty(root):
    (root / "images" / "p0.png").write_bytes(b"")


@damage("voc", "unreadable-image", "p0.png")
def image_is_a_web_page(root):
    (root / "JPEGImages" / "p0.png").write_text("<html>404 not found</html>")


@damage("coco", "truncated-image", "p0.png")
def image_cut_off(root):
    path = root / "images" / "p0.png"
    path.write_bytes(path.read_bytes()[:-3000])


@damage("yolo", "truncated-image", "p0.jpg")
def jpeg_cut_off(root):
    image = Image.open(root / "images" / "train" / "p0.png")
    image.save(root / "images" / "train" / "p0.jpg")
    (root / "images" / "train" / "p0.png").unlink()
    data = (root / "images" / "train" / "p0.jpg").read_bytes()
    (root / "images" / "train" / "p0.jpg").write_bytes(data[: len(data) // 2])


@damage("coco", "damaged-image", "p0.png")
def image_with_a_flipped_bit(root):
    path = root / "images" / "p0.png"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x10
    path.write_bytes(data)


@damage("coco", "unreadable-image", "is not a regular file")
def image_is_a_pipe(root):
    (root / "images" / "p0.png").unlink()
    os.mkfifo(root / "images" / "p0.png")


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds no pixels."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@damage("coco", "decompression-bomb", "p0.png")
def image_of_ten_gigapixels(root):
    (root / "images" / "p0.png").write_bytes(png_header(100_000, 100_000))


@damage("voc_roboflow", "decompression-bomb", "p0.png")
def voc_image_of_ten_gigapixels(root):
    (root / "train" / "p0.png").write_bytes(png_header(100_000, 100_000))


@damage("yolo", "unsupported-pixels", "I;16")
def image_of_16_bits(root):
    values = np.arange(HEIGHT * WIDTH, dtype=np.uint16).reshape(HEIGHT, WIDTH)
    Image.fromarray(values).save(root / "images" / "train" / "p0.png")


def rotate_by_exif(path: Path, orientation: int) -> None:
    image = Image.open(path)
    image.load()
    exif = Image.Exif()
    exif[0x0112] = orientation
    image.save(path, exif=exif)


@damage("coco", "exif-mismatch", "EXIF orientation 6")
def image_that_exif_turns_after_annotation(root):
    rotate_by_exif(root / "images" / "p0.png", 6)


@damage("voc", "exif-mismatch", "EXIF orientation 8")
def voc_image_that_exif_turns_after_annotation(root):
    rotate_by_exif(root / "JPEGImages" / "p0.png", 8)


@damage("yolo", "exif-rotation", "EXIF orientation 3")
def image_upside_down(root):
    rotate_by_exif(root / "images" / "train" / "p0.png", 3)
