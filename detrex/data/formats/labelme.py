"""Reading labelme data sets: one json per image, with shapes of points in pixels."""

from __future__ import annotations

import math
import os
from typing import Any

from detrex.data.checks.findings import DatasetError
from detrex.data.checks.paths import list_folder, read_json
from detrex.utils.regular_files import NotRegularFileError, open_regular
from detrex.utils.text import short

from .coco_json import as_int
from .per_image import AnnotationFile, Corners, PerImageReader, find_folders
from .source import DataSource

HEAD = 65536  # bytes; labelme writes shapes first and the image's pixels last
CORNERS_OF = ("rectangle", "polygon", "rotation", "mask")  # shapes that have the box of their points


def has_labelme(folder: str) -> bool:
    """Whether the first json of a folder is labelme's."""
    for name in list_folder(folder, (".json",)):
        try:
            with open_regular(os.path.join(folder, name)) as f:
                head = f.read(HEAD).replace(b"\0", b"")  # of UTF-16
        except NotRegularFileError:  # refused where it is read
            continue
        return b'"shapes"' in head and b'"annotations"' not in head
    return False


def find_labelme(root: str) -> dict[str, tuple[str, str]]:
    """Split -> (folder of the json files, folder of the images); "" stands for a data set in one folder."""
    return find_folders(root, has_labelme)


def read_labelme(root: str, folders: dict[str, tuple[str, str]], *, allow_outside: bool) -> DataSource:
    """Read the splits of a data set; class names are those that occur in any of them, in alphabetical order.

    Args:
        root: folder of the data set.
        folders: of ``find_labelme``.
        allow_outside: whether file names may leave ``root``.
    """
    reader = PerImageReader(root, suffix=".json", parse=_parse, allow_outside=allow_outside)
    files = {split or "train": reader.read(*pair, None, split or "train") for split, pair in folders.items()}
    return reader.source("labelme json", folders, files)


def _parse(path: str) -> AnnotationFile:
    content = read_json(path)
    shapes = content.get("shapes") if isinstance(content, dict) else None
    if not isinstance(shapes, list) or not all(isinstance(s, dict) for s in shapes):
        raise DatasetError.of("unreadable-annotations", path, 'has no list "shapes" of objects, as labelme writes it')
    name, size = content.get("imagePath"), [as_int(content.get(f"image{side}")) for side in ("Width", "Height")]
    file = AnnotationFile(name if isinstance(name, str) else "", tuple(size) if all(size) else None)
    for number, shape in enumerate(shapes, 1):
        label, box = shape.get("label"), _corners(shape)
        if not isinstance(label, str) or not label.strip():
            file.problems[number] = ("unknown-class", f"label {short(label)} is no class name")
        elif box is None:
            kind = short(shape.get("shape_type", "polygon"))
            message = f"a shape of type {kind} with points {short(shape.get('points'))} has no box; draw a rectangle"
            file.problems[number] = ("malformed-box", message)
        else:
            file.objects[number] = (label.strip(), box)
    return file


def _corners(shape: dict[str, Any]) -> Corners | None:
    """The box around a shape; None for points, lines and what is damaged."""
    kind, points = shape.get("shape_type", "polygon"), shape.get("points")
    if not isinstance(points, list) or not all(map(_is_point, points)):
        return None
    if kind == "circle" and len(points) == 2:  # its centre and a point on it
        (x, y), radius = points[0], math.dist(*points)
        return [x - radius, y - radius, x + radius, y + radius]
    if kind not in CORNERS_OF or len(points) < 2:
        return None
    xs, ys = zip(*points, strict=True)
    return [min(xs), min(ys), max(xs), max(ys)]


def _is_point(value: Any) -> bool:
    numbers = isinstance(value, list) and len(value) == 2
    return numbers and all(isinstance(v, (int, float)) and not isinstance(v, bool) and abs(v) < 2**63 for v in value)
