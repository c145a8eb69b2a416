"""Data sets with one annotation file per image: which file is whose, and the content of a split."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from detrex.data.checks.findings import DatasetError, Finding
from detrex.data.checks.images import IMAGE_SUFFIXES
from detrex.data.checks.paths import FileListing, is_inside, list_files, same_name
from detrex.utils.text import short

from .coco_json import WHERE
from .source import SPLIT_NAMES, DataSource, SplitSource, annotation_entry, image_entries

ANNOTATION_FOLDERS = ("Annotations", "annotations")
IMAGE_FOLDERS = ("JPEGImages", "images", "Images")
Corners = list[float]  # xmin, ymin, xmax, ymax


@dataclass
class AnnotationFile:
    """What an annotation file says of its image."""

    image_name: str  # as it stands in the file; may be empty
    size: tuple[int, int] | None  # (width, height) of the image; None where the file does not say
    objects: dict[int, tuple[str, Corners]] = field(default_factory=dict)  # by number, from 1: class name, corners
    problems: dict[int, tuple[str, str]] = field(default_factory=dict)  # by number: kind and message
    path: str = ""  # of the file
    image: str = ""  # path of its image


def find_folders(root: str, has_annotations: Callable[[str], bool]) -> dict[str, tuple[str, str]]:
    """Split -> (folder of annotation files, folder of images); "" stands for a data set in one folder."""
    for name in ANNOTATION_FOLDERS:
        if has_annotations(folder := os.path.join(root, name)):
            images = next((n for n in IMAGE_FOLDERS if os.path.isdir(os.path.join(root, n))), "")
            return {"": (folder, os.path.join(root, images))}
    splits = {}
    for name, split in SPLIT_NAMES.items():
        if has_annotations(folder := os.path.join(root, name)):
            splits.setdefault(split, (folder, folder))
    return splits or ({"": (root, root)} if has_annotations(root) else {})


class PerImageReader:
    """Reads the annotation files of a data set and finds their images.

    Args:
        root: folder of the data set.
        suffix: of annotation files, lower case.
        parse: reads a file; raises DatasetError.
        allow_outside: whether image names may leave ``root``.

    Attributes:
        findings: what is wrong, file by file.
    """

    def __init__(self, root: str, *, suffix: str, parse: Callable[[str], AnnotationFile], allow_outside: bool) -> None:
        self.root, self.allow_outside = root, allow_outside
        self.findings: list[Finding] = []
        self._suffix, self._parse, self._listing, self._split = suffix, parse, FileListing(), ""

    def read(
        self, folder: str, image_folder: str, listed: list[tuple[str, str]] | None, split: str
    ) -> list[AnnotationFile]:
        """Read the annotation files of a split.

        Args:
            folder: of the files.
            image_folder: of the images.
            listed: (place, path without suffix) of those that belong to the split; None takes all.
            split: its name, for findings.
        """
        self._split = split
        images = list_files(image_folder, IMAGE_SUFFIXES)
        by_stem: dict[str, list[str]] = {}
        for path in images:
            by_stem.setdefault(_stem(path, image_folder), []).append(path)
        files = list_files(folder, frozenset({self._suffix})) if listed is None else self._listed_files(folder, listed)
        annotated = []
        for path in files:
            alike = by_stem.get(_stem(path, folder), [])
            if file := self._read_file(path, alike, [image_folder, os.path.dirname(path)]):
                annotated.append(file)
        if listed is None:
            used = {a.image for a in annotated} | {os.path.splitext(p)[0] for p in files}
            for path in images:
                if path not in used and os.path.splitext(path)[0] not in used:
                    self._report("unlisted-file", path, f"an image without an {self._suffix[1:]} file")
        return annotated

    def source(
        self,
        format: str,
        folders: dict[str, tuple[str, str]],
        annotated: dict[str, list[AnnotationFile]],
        *,
        origin: int = 0,
        notes: tuple[str, ...] = (),
    ) -> DataSource:
        """The data set; class names are those that occur, in alphabetical order.

        Args:
            format: its name.
            folders: of ``find_folders``.
            annotated: split -> what ``read`` returned.
            origin: 1 where pixels count from 1 and corners include the last pixel.
            notes: see ``DataSource``.
        """
        class_names = sorted({n for files in annotated.values() for f in files for n, _ in f.objects.values()})
        limit, splits = None if self.allow_outside else self.root, {}
        for split, files in annotated.items():
            content = self._content(files, split, class_names, origin)
            splits[split] = SplitSource(folders.get(split, folders.get("", ("",)))[0], self.root, limit, content)
        return DataSource(self.root, format, splits, tuple(self.findings), notes)

    def _content(
        self, files: list[AnnotationFile], split: str, class_names: list[str], origin: int
    ) -> dict[str, list[dict[str, Any]]]:
        self._split = split
        entries = image_entries([f.image for f in files], self.root, split, self.findings)
        class_ids = {name: i for i, name in enumerate(class_names)}
        annotations: list[dict[str, Any]] = []
        first: dict[str, AnnotationFile] = {}
        for file in files:
            entry = entries.get(file.image)
            if entry is None:
                continue
            if first.setdefault(file.image, file) is not file:
                self._report("repeated-file", file.path, f"{entry['file_name']} belongs to {entry[WHERE]} already")
                continue
            where = entry[WHERE] = os.path.relpath(file.path, self.root)
            if file.size is not None:
                entry["width"], entry["height"] = file.size
            for number, (name, (xmin, ymin, xmax, ymax)) in file.objects.items():
                xywh = [xmin - origin, ymin - origin, xmax - xmin + origin, ymax - ymin + origin]
                place = f"{where} object {number}"
                annotations.append(annotation_entry(entry["id"], class_ids[name], xywh, place, len(annotations) + 1))
        categories = [{"id": i, "name": name} for name, i in class_ids.items()]
        return {"images": list(entries.values()), "annotations": annotations, "categories": categories}

    def _report(self, kind: str, path: str, message: str, place: str = "") -> None:
        self.findings.append(Finding(kind, os.path.relpath(path, self.root) + place, message, self._split))

    def _listed_files(self, folder: str, listed: list[tuple[str, str]]) -> list[str]:
        files = []
        for where, stem in listed:
            path = os.path.normpath(os.path.join(folder, stem + self._suffix))
            if not is_inside(path, self.root):
                message = f"{short(stem)} is outside {self.root}"
                self.findings.append(Finding("outside-root", where, message, self._split))
            elif (found := self._listing.find(path)) is None:
                self.findings.append(Finding("missing-annotations", where, f"no file {path}", self._split))
            else:
                files.append(found)
        return list(dict.fromkeys(files))

    def _read_file(self, path: str, alike: list[str], folders: list[str]) -> AnnotationFile | None:
        """Read a file, with the image of its own name (``alike``), or else that which it names, in ``folders``."""
        try:
            file = self._parse(path)
        except DatasetError as e:
            for finding in e.findings:
                self._report(finding.kind, path, finding.message)
            return None
        image = self._image_alike(file, path, alike) if alike else self._named_image(file, path, folders)
        if image is None:
            return None
        file.path, file.image = path, image
        for number, (kind, message) in file.problems.items():
            self._report(kind, path, message, f" object {number}")
        return file

    def _image_alike(self, file: AnnotationFile, path: str, alike: list[str]) -> str:
        names = {same_name(os.path.basename(p)): p for p in alike}
        named = same_name(file.image_name.replace("\\", "/").rpartition("/")[2])
        image = names.get(named, alike[0])
        if named and os.path.splitext(named)[0] not in {os.path.splitext(name)[0] for name in names}:
            message = f"the image is named {short(file.image_name)}; {os.path.basename(image)} is used"
            self._report("name-mismatch", path, message)
        for other in alike:
            if other != image:
                self._report("unlisted-file", other, f"{os.path.basename(path)} is of {os.path.basename(image)}")
        return image

    def _named_image(self, file: AnnotationFile, path: str, folders: list[str]) -> str | None:
        name = file.image_name.replace("\\", "/")
        paths = [os.path.normpath(os.path.join(folder, name)) for folder in folders] if name else []
        permitted = [p for p in paths if self.allow_outside or is_inside(p, self.root)]
        found = next(filter(None, map(self._listing.find, permitted)), None)
        if paths and not permitted:
            message = f"{short(name)} is outside {self.root}; dataloader.data.allow_outside=True permits it"
            self._report("outside-root", path, message)
        elif found is None:
            stem = os.path.splitext(os.path.basename(path))[0]
            self._report("missing-image", path, f"no image {stem}.* and no file {short(name)} in {folders[0]}")
        return found


def _stem(path: str, folder: str) -> str:
    return same_name(os.path.splitext(os.path.relpath(path, folder))[0] + ".")
