"""Reading Pascal VOC data sets: one xml per image, in Annotations/ or, as Roboflow exports it, beside the image."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, field
from typing import Any
from xml.etree.ElementTree import Element, ParseError

from defusedxml.ElementTree import parse

from detrex.data.checks.findings import DatasetError, Finding
from detrex.data.checks.images import IMAGE_SUFFIXES
from detrex.data.checks.paths import is_inside, list_files
from detrex.utils.text import short

from .coco_records import WHERE
from .source import SPLIT_NAMES, DataSource, SplitSource, annotation_entry, image_entries

ANNOTATION_FOLDERS = ("Annotations", "annotations")
IMAGE_FOLDERS = ("JPEGImages", "images", "Images")
XML = frozenset({".xml"})
SIDES = ("xmin", "ymin", "xmax", "ymax")


@dataclass
class _Annotated:
    """What an xml says. ``objects``: (place, class name, [xmin, ymin, xmax, ymax]); ``size``: (width, height)."""

    where: str
    image: str
    size: tuple[int, int] | None
    objects: list[tuple[str, str, list[float]]] = field(default_factory=list)


def find_xml_folders(root: str) -> dict[str, tuple[str, str]]:
    """Split -> (folder of the xml files, folder of the images); "" stands for a data set in one folder."""
    for name in ANNOTATION_FOLDERS:
        if _has_xml(folder := os.path.join(root, name)):
            images = next((n for n in IMAGE_FOLDERS if os.path.isdir(os.path.join(root, n))), "")
            return {"": (folder, os.path.join(root, images))}
    splits = {}
    for name, split in SPLIT_NAMES.items():
        if _has_xml(folder := os.path.join(root, name)):
            splits.setdefault(split, (folder, folder))
    return splits or ({"": (root, root)} if _has_xml(root) else {})


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
    reader = _Reader(root, allow_outside)
    annotated = {}
    for split, (xml_folder, image_folder) in folders.items():
        stems = _image_sets(root, xml_folder) if split == "" else {split: None}
        for name, listed in stems.items():
            annotated[name] = reader.read(xml_folder, image_folder, listed, name)
    objects = [o for files in annotated.values() for f in files for o in f.objects]
    class_names = sorted({name for _, name, _ in objects})
    origin = 0 if any(v == 0 or v % 1 for _, _, sides in objects for v in sides if math.isfinite(v)) else 1
    folder_of = {split: folders.get(split, folders.get("", ("", "")))[0] for split in annotated}
    limit = None if allow_outside else root
    splits = {
        split: SplitSource(folder_of[split], root, limit, reader.content(files, split, class_names, origin))
        for split, files in annotated.items()
    }
    reason = "as VOC defines them" if origin else "since a zero or a fraction occurs"
    note = f"pixel coordinates count from {origin}, {reason}"
    return DataSource(root, "Pascal VOC xml", splits, tuple(reader.findings), (note,))


def _has_xml(folder: str) -> bool:
    return os.path.isdir(folder) and any(n.endswith(".xml") for n in os.listdir(folder))


def _image_sets(root: str, xml_folder: str) -> dict[str, list[tuple[str, str]] | None]:
    """Split -> (place, stem) of its images, from ImageSets/Main; without such lists everything is for training."""
    lists = {}
    for name in ("train", "val", "test", "trainval"):
        path = os.path.join(root, "ImageSets", "Main", f"{name}.txt")
        if not os.path.isfile(path):
            continue
        try:
            with open(path, encoding="utf-8-sig") as f:
                rows = [line.strip() for line in f]
        except (OSError, ValueError) as e:
            raise DatasetError.of("unreadable-annotations", path, f"cannot be read as text: {e}") from e
        place = os.path.join("ImageSets", "Main", f"{name}.txt")
        lists[name] = [(f"{place}:{i}", stem) for i, stem in enumerate(rows, 1) if stem]
    if not lists:
        return {"train": None}
    both = lists.pop("trainval", None)
    if "train" not in lists:
        if both is None:
            both = [(n, os.path.splitext(n)[0]) for n in sorted(os.listdir(xml_folder)) if n.endswith(".xml")]
        held_out = {stem for rows in lists.values() for _, stem in rows}
        lists["train"] = [row for row in both if row[1] not in held_out]
    return lists


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


class _Reader:
    def __init__(self, root: str, allow_outside: bool) -> None:
        self.root, self.allow_outside = root, allow_outside
        self.findings: list[Finding] = []

    def read(
        self, xml_folder: str, image_folder: str, listed: list[tuple[str, str]] | None, split: str
    ) -> list[_Annotated]:
        """Parse the xml files of a split and find their images."""
        images = list_files(image_folder, IMAGE_SUFFIXES)
        by_stem = {os.path.splitext(os.path.relpath(p, image_folder))[0]: p for p in images}
        files = list_files(xml_folder, XML)
        if listed is not None:
            files = self._listed_files(xml_folder, listed, split)
        annotated = [a for path in files if (a := self._read_file(path, xml_folder, image_folder, by_stem, split))]
        if listed is None:
            used = {a.image for a in annotated} | {os.path.splitext(p)[0] for p in files}
            for path in images:
                if path not in used and os.path.splitext(path)[0] not in used:
                    message = "an image without an xml file"
                    self.findings.append(Finding("unlisted-file", os.path.relpath(path, self.root), message, split))
        return annotated

    def _listed_files(self, folder: str, listed: list[tuple[str, str]], split: str) -> list[str]:
        files = []
        for where, stem in listed:
            path = os.path.normpath(os.path.join(folder, f"{stem}.xml"))
            if not is_inside(path, self.root):
                self.findings.append(Finding("outside-root", where, f"{short(stem)} is outside {self.root}", split))
            elif not os.path.isfile(path):
                self.findings.append(Finding("missing-annotations", where, f"no file {path}", split))
            else:
                files.append(path)
        return list(dict.fromkeys(files))

    def _read_file(
        self, path: str, xml_folder: str, image_folder: str, by_stem: dict[str, str], split: str
    ) -> _Annotated | None:
        where = os.path.relpath(path, self.root)
        try:
            tree = parse(path, forbid_dtd=True).getroot()
        except (OSError, ParseError, ValueError, LookupError) as e:  # ValueError: a DTD, or a wrong encoding
            message = f"cannot be read as xml: {e or type(e).__name__}"
            self.findings.append(Finding("unreadable-annotations", where, message, split))
            return None
        stem = os.path.splitext(os.path.relpath(path, xml_folder))[0]
        image = self._image(tree, stem, image_folder, by_stem, where, split)
        if image is None:
            return None
        annotated = _Annotated(where, image, _size(tree))
        for number, element in enumerate(tree.iterfind("object"), 1):
            self._read_object(element, f"{where} object {number}", annotated, split)
        return annotated

    def _image(
        self, tree: Element, stem: str, folder: str, by_stem: dict[str, str], where: str, split: str
    ) -> str | None:
        """The image of the xml's own name, as VOC has it; where there is none, the one that the xml names."""
        named = (tree.findtext("filename") or "").strip()
        if stem in by_stem:
            if named and os.path.splitext(os.path.basename(named))[0] != os.path.basename(stem):
                message = f"filename is {short(named)}; {os.path.basename(by_stem[stem])} is used"
                self.findings.append(Finding("name-mismatch", where, message, split))
            return by_stem[stem]
        path = os.path.normpath(os.path.join(folder, named))
        if named and not self.allow_outside and not is_inside(path, self.root):
            message = f"{short(named)} is outside {self.root}; dataloader.data.allow_outside=True permits it"
            self.findings.append(Finding("outside-root", where, message, split))
        elif not named or not os.path.isfile(path):
            message = f"no image {stem}.* and no file {short(named)} in {folder}"
            self.findings.append(Finding("missing-image", where, message, split))
        else:
            return path
        return None

    def _read_object(self, element: Element, where: str, annotated: _Annotated, split: str) -> None:
        name = (element.findtext("name") or "").strip()
        sides = [_number(element.findtext(f"bndbox/{side}")) for side in SIDES]
        if not name:
            self.findings.append(Finding("unknown-class", where, "the object has no name", split))
        elif None in sides:
            self.findings.append(Finding("malformed-box", where, "no bndbox with four numbers", split))
        else:
            annotated.objects.append((where, name, sides))

    def content(
        self, files: list[_Annotated], split: str, class_names: list[str], origin: int
    ) -> dict[str, list[dict[str, Any]]]:
        """COCO content of a split."""
        entries = image_entries([f.image for f in files], self.root, split, self.findings)
        class_ids = {name: i for i, name in enumerate(class_names)}
        annotations: list[dict[str, Any]] = []
        first: dict[str, str] = {}
        for file in files:
            entry = entries.get(file.image)
            if entry is None:
                continue
            if first.setdefault(file.image, file.where) != file.where:
                message = f"{entry['file_name']} belongs to {first[file.image]} already"
                self.findings.append(Finding("repeated-file", file.where, message, split))
                continue
            entry[WHERE] = file.where
            if file.size is not None:
                entry["width"], entry["height"] = file.size
            for where, name, (xmin, ymin, xmax, ymax) in file.objects:
                xywh = [xmin - origin, ymin - origin, xmax - xmin + origin, ymax - ymin + origin]
                annotations.append(annotation_entry(entry["id"], class_ids[name], xywh, where, len(annotations) + 1))
        categories = [{"id": i, "name": name} for name, i in class_ids.items()]
        return {"images": list(entries.values()), "annotations": annotations, "categories": categories}
