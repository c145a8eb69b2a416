"""Image files, looked at one by one and safely: header, every pixel, orientation, a hash of the picture."""

from __future__ import annotations

import hashlib
import os
import stat
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from PIL import Image, ImageOps

from detrex.utils.regular_files import raise_machine_fault

ORIENTATION = 0x0112  # EXIF tag 274
SWAPPING = (5, 6, 7, 8)  # orientations that exchange width and height (EXIF 2.3, table 6)
# Pillow clips these to 8 bits when it converts them to RGB.
DEEP_MODES = ("I", "F", "I;16", "I;16B", "I;16L", "I;16N")
IMAGE_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".gif", ".tga"}
)
# What Pillow may decode, whatever a file is called. Other decoders are less in use; that of EPS runs Ghostscript.
FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "TIFF", "PPM", "GIF")
FORMATS_OF_SUFFIX = {".tga": (*FORMATS, "TGA")}  # a TGA has no signature: many damaged files would pass for one
MAX_PIXELS = 2 * 89_478_485  # Pillow's own limit; half a gigabyte of RGB
HEADER_THREADS = 8


class ImageFault(OSError):
    """An image that must not be trained on; ``kind`` is a key of ``findings.KINDS``."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind

    def __reduce__(self) -> tuple:  # OSError's own would lose the kind on the way between processes
        return type(self), (self.kind, str(self))


@dataclass(frozen=True)
class ImageFacts:
    """What a file says of itself.

    Attributes:
        width: in pixels, upright, that is after the rotation that EXIF asks for.
        height: likewise.
        orientation: EXIF orientation, 1 to 8; 1 is upright.
        pixel_hash: of size and RGB values of the upright picture; "" where only the header was read.
    """

    width: int
    height: int
    orientation: int
    pixel_hash: str = ""

    @property
    def stored_size(self) -> tuple[int, int]:
        """(width, height) before the rotation."""
        size = (self.width, self.height)
        return size[::-1] if self.orientation in SWAPPING else size


def open_image(path: str | os.PathLike[str]) -> Image.Image:
    """Open an image without decoding it, and refuse what must not be decoded.

    Raises:
        ImageFault: not a regular file, or no image of ``FORMATS``; more than ``MAX_PIXELS``, which a small file can
            claim (a decompression bomb); more than 8 bits per channel.
        OSError, MemoryError: the machine cannot read the file.
    """
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # a pipe would block for ever
            raise ImageFault("unreadable-image", "is not a regular file")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # between half the limit and the limit
            suffix = os.path.splitext(os.fspath(path))[1].lower()
            image = Image.open(path, formats=FORMATS_OF_SUFFIX.get(suffix, FORMATS))
    except ImageFault:
        raise
    except Image.DecompressionBombError as e:
        raise ImageFault("decompression-bomb", str(e)) from e
    except Exception as e:  # decoders raise errors of many types on damaged headers
        raise_machine_fault(e, path)
        raise ImageFault("unreadable-image", f"cannot be read as an image: {_one_line(e)}") from e
    if image.width * image.height > MAX_PIXELS:  # where somebody has lifted Pillow's limit
        image.close()
        raise ImageFault("decompression-bomb", f"has {image.width} x {image.height} pixels; {MAX_PIXELS} are safe")
    if image.mode in DEEP_MODES:
        image.close()
        raise ImageFault("unsupported-pixels", f"has pixels of mode {image.mode}; convert it to 8 bits")
    return image


def read_header(path: str | os.PathLike[str]) -> ImageFacts:
    """Size and orientation of an image file without decoding it.

    Raises:
        ImageFault, OSError, MemoryError: as ``open_image``.
    """
    with open_image(path) as image:
        return _facts(image)


def read_headers(paths: list[str]) -> list[ImageFacts | ImageFault]:
    """``read_header`` of many files at a time; a fault stands in the place of its file's facts."""
    with ThreadPoolExecutor(HEADER_THREADS) as pool:
        return list(pool.map(_header_or_fault, paths))


def inspect_image(path: str) -> ImageFacts | ImageFault:
    """Decode a complete image, as training will.

    Raises:
        OSError, MemoryError: the machine cannot read the file.
    """
    try:
        with open_image(path) as image:
            facts = _facts(image)
            image.load()
            rgb = upright(image).convert("RGB")
            digest = hashlib.blake2b(repr(rgb.size).encode(), digest_size=16)
            digest.update(rgb.tobytes())
        with open_image(path) as image:
            _verify(image, path)
        return ImageFacts(*rgb.size, facts.orientation, digest.hexdigest())
    except ImageFault as fault:
        return fault
    except Exception as e:  # as in open_image
        raise_machine_fault(e, path)
        kind = "truncated-image" if "truncated" in str(e).lower() else "unreadable-image"
        return ImageFault(kind, f"cannot be decoded: {_one_line(e)}")


def _verify(image: Image.Image, path: str) -> None:
    """Compare the checksums of formats that have them (PNG); decoding does not."""
    try:
        image.verify()
    except Exception as e:  # as in open_image
        raise_machine_fault(e, path)
        raise ImageFault("damaged-image", f"decodes, but: {_one_line(e)}") from e


def upright(image: Image.Image) -> Image.Image:
    """A loaded image turned as EXIF asks; as stored where the EXIF data are broken."""
    try:
        return ImageOps.exif_transpose(image)
    except Exception as e:  # Pillow raises errors of many types on broken EXIF data, which must not cost the image
        raise_machine_fault(e, getattr(image, "filename", "image"))
        return image


def _facts(image: Image.Image) -> ImageFacts:
    try:
        orientation = image.getexif().get(ORIENTATION, 1)
    except Exception as e:  # as in upright
        raise_machine_fault(e, getattr(image, "filename", "image"))
        orientation = 1
    if not isinstance(orientation, int) or not 1 <= orientation <= 8:
        orientation = 1
    size = image.size[::-1] if orientation in SWAPPING else image.size
    return ImageFacts(*size, orientation)


def _header_or_fault(path: str) -> ImageFacts | ImageFault:
    try:
        return read_header(path)
    except ImageFault as fault:
        return fault


def _one_line(error: Exception) -> str:
    return " ".join(f"{error}".split())[:200] or type(error).__name__
