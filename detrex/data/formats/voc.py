"""Reading Pascal VOC data sets: one xml per image, in Annotations/ or, as Roboflow exports it, beside the image."""

from __future__ import annotations

import math
import os
from xml.etree.ElementTree import Element, ParseError

from defusedxml.ElementTree import parse

from detrex.data.checks.findings import DatasetError
from detrex.data.checks.paths import list_folder, read_lines
from detrex.utils.regular_files import open_regular, raise_machine_fault

from .per_image import AnnotationFile, PerImageReader, find_folders
from .source import DataSource

SIDES = ("xmin", "ymin", "xmax", "ymax")


def find_xml_folders(root: str) -> dict[str, tuple[str, str]]:
    """Split -> (folder of the xml files, folder of the images); "" stands for a data set in one folder."""
    return find_folders(root, lambda folder: bool(list_folder(folder, (".xml",))))


def read_voc(root: str, folders: dict[str, tuple[str, str]], *, allow_outside: bool) -> DataSource:
    """Read the splits of a data set; class names are those that occur in any of them, in alphabetical order.

    VOC counts pixels from 1 and includes the last one: xmin becomes x = xmin - 1. Many programs write coordinates from
    0 instead; where any is 0 or has a fraction, all are taken so.

    Args:
        root: folder of the data set.
        folders: of ``find_xml_folders``.
        allow_outside: whether file names may leave ``root``.

    Raises:
        DatasetError: an ImageSets list that cannot be read.
    """
    reader = PerImageReader(root, suffix=".xml", parse=_parse, allow_outside=allow_outside)
    annotated = {}
    for split, (xml_folder, image_folder) in folders.items():
        stems = _image_sets(root, xml_folder) if split == "" else {split: None}
        for name, listed in stems.items():
            annotated[name] = reader.read(xml_folder, image_folder, listed, name)
    sides = [v for files in annotated.values() for f in files for _, corners in f.objects.values() for v in corners]
    origin = 0 if any(v == 0 or v % 1 for v in sides if math.isfinite(v)) else 1
    reason = "as VOC defines them" if origin else "since a zero or a fraction occurs"
    note = f"pixel coordinates count from {origin}, {reason}"
    return reader.source("Pascal VOC xml", folders, annotated, origin=origin, notes=(note,))


def _image_sets(root: str, xml_folder: str) -> dict[str, list[tuple[str, str]] | None]:
    """Split -> (place, stem) of its images, from ImageSets/Main; without such lists everything is for training."""
    lists = {}
    for name in ("train", "val", "test", "trainval"):
        place = os.path.join("ImageSets", "Main", f"{name}.txt")
        if os.path.lexists(path := os.path.join(root, place)):
            lists[name] = [(f"{place}:{i}", stem) for i, stem in enumerate(read_lines(path), 1) if stem]
    if not lists:
        return {"train": None}
    both = lists.pop("trainval", None)
    if "train" not in lists:
        if both is None:
            both = [(n, os.path.splitext(n)[0]) for n in list_folder(xml_folder, (".xml",))]
        held_out = {stem for rows in lists.values() for _, stem in rows}
        lists["train"] = [row for row in both if row[1] not in held_out]
    return lists


def _parse(path: str) -> AnnotationFile:
    try:
        with open_regular(path) as f:
            tree = parse(f, forbid_dtd=True).getroot()
    except (OSError, ParseError, ValueError, LookupError) as e:  # ValueError: a DTD, or a wrong encoding
        raise_machine_fault(e, path)
        message = f"cannot be read as xml: {e or type(e).__name__}"
        raise DatasetError.of("unreadable-annotations", path, message) from e
    if tree.tag != "annotation":
        message = f"its root element is <{tree.tag}> and not <annotation>: this is not Pascal VOC"
        if tree.tag == "annotations":
            message += '. It may be "CVAT for images"; export it as "Pascal VOC" or "COCO"'
        raise DatasetError.of("unreadable-annotations", path, message)
    file = AnnotationFile((tree.findtext("filename") or "").strip(), _size(tree))
    for number, element in enumerate(tree.iterfind("object"), 1):
        name = (element.findtext("name") or "").strip()
        sides = [_number(element.findtext(f"bndbox/{side}")) for side in SIDES]
        if not name:
            file.problems[number] = ("unknown-class", "the object has no name")
        elif None in sides:
            file.problems[number] = ("malformed-box", "no bndbox with four numbers")
        else:
            file.objects[number] = (name, sides)
    return file


def _number(text: str | None) -> float | None:
    """The number that a text is, None if it is none."""
    try:
        return float("" if text is None or "_" in text else text)  # Python reads 1_0 as 10
    except ValueError:
        return None


def _size(tree: Element) -> tuple[int, int] | None:
    """(width, height) that an xml states; None without one, as for the 0 that some programs write."""
    width, height = (_number(tree.findtext(f"size/{key}")) for key in ("width", "height"))
    if not width or not height or not 0 < width < math.inf or not 0 < height < math.inf:
        return None
    return int(width), int(height)
