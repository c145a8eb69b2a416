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
from .source import SPLIT_NAMES, annotation_entry, image_entries

ANNOTATION_FOLDERS = ("Annotations", "annotations")
IMAGE_FOLDERS = ("JPEGImages", "images", "Images")
Corners = list[float]  # xmin, ymin, xmax, ymax


@dataclass
class AnnotationFile:
    """What an annotation file says.

    Attributes:
        image_name: of its image, as it stands there; may be empty.
        size: (width, height) of the image; None where it does not say.
        objects: number of the object, from 1 -> class name and corners in pixels.
        problems: number of an object -> kind and message of what is wrong with it.
        where: path relative to the data set's folder.
        image: path of the image.
    """

    image_name: str
    size: tuple[int, int] | None
    objects: dict[int, tuple[str, Corners]] = field(default_factory=dict)
    problems: dict[int, tuple[str, str]] = field(default_factory=dict)
    where: str = ""
    image: str = ""


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
        self._suffix, self._parse, self._listing = suffix, parse, FileListing()

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
        images = list_files(image_folder, IMAGE_SUFFIXES)
        by_stem: dict[str, list[str]] = {}
        for path in images:
            by_stem.setdefault(_stem(path, image_folder), []).append(path)
        if listed is None:
            files = list_files(folder, frozenset({self._suffix}))
        else:
            files = self._listed_files(folder, listed, split)
        annotated = [a for path in files if (a := self._read_file(path, folder, image_folder, by_stem, split))]
        if listed is None:
            used = {a.image for a in annotated} | {os.path.splitext(p)[0] for p in files}
            for path in images:
                if path not in used and os.path.splitext(path)[0] not in used:
                    message = f"an image without an {self._suffix[1:]} file"
                    self.findings.append(Finding("unlisted-file", os.path.relpath(path, self.root), message, split))
        return annotated

    def content(
        self, files: list[AnnotationFile], split: str, class_names: list[str], origin: int = 0
    ) -> dict[str, list[dict[str, Any]]]:
        """COCO content of a split.

        Args:
            files: of ``read``.
            split: its name, for findings.
            class_names: position is the class id.
            origin: 1 where pixels count from 1 and corners include the last pixel.
        """
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
            for number, (name, (xmin, ymin, xmax, ymax)) in file.objects.items():
                xywh = [xmin - origin, ymin - origin, xmax - xmin + origin, ymax - ymin + origin]
                where = f"{file.where} object {number}"
                annotations.append(annotation_entry(entry["id"], class_ids[name], xywh, where, len(annotations) + 1))
        categories = [{"id": i, "name": name} for name, i in class_ids.items()]
        return {"images": list(entries.values()), "annotations": annotations, "categories": categories}

    def _listed_files(self, folder: str, listed: list[tuple[str, str]], split: str) -> list[str]:
        files = []
        for where, stem in listed:
            path = os.path.normpath(os.path.join(folder, stem + self._suffix))
            if not is_inside(path, self.root):
                self.findings.append(Finding("outside-root", where, f"{short(stem)} is outside {self.root}", split))
            elif (found := self._listing.find(path)) is None:
                self.findings.append(Finding("missing-annotations", where, f"no file {path}", split))
            else:
                files.append(found)
        return list(dict.fromkeys(files))

    def _read_file(
        self, path: str, folder: str, image_folder: str, by_stem: dict[str, list[str]], split: str
    ) -> AnnotationFile | None:
        where = os.path.relpath(path, self.root)
        try:
            file = self._parse(path)
        except DatasetError as e:
            self.findings += [Finding(f.kind, where, f.message, split) for f in e.findings]
            return None
        image = self._image(file.image_name, path, folder, image_folder, by_stem, where, split)
        if image is None:
            return None
        file.where, file.image = where, image
        for number, (kind, message) in file.problems.items():
            self.findings.append(Finding(kind, f"{where} object {number}", message, split))
        return file

    def _image(
        self,
        named: str,
        path: str,
        folder: str,
        image_folder: str,
        by_stem: dict[str, list[str]],
        where: str,
        split: str,
    ) -> str | None:
        """The image of the annotation file's own name; where there is none, the one that it names."""
        base = same_name(named.replace("\\", "/").rpartition("/")[2])
        if alike := by_stem.get(_stem(path, folder)):
            image = next((p for p in alike if same_name(os.path.basename(p)) == base), alike[0])
            if base and os.path.splitext(base)[0] != os.path.splitext(same_name(os.path.basename(image)))[0]:
                message = f"the image is named {short(named)}; {os.path.basename(image)} is used"
                self.findings.append(Finding("name-mismatch", where, message, split))
            for other in alike:
                if other != image:
                    message = f"{where} is the annotation of {os.path.basename(image)}"
                    self.findings.append(Finding("unlisted-file", os.path.relpath(other, self.root), message, split))
            return image
        meant = named.replace("\\", "/")
        candidates = [os.path.normpath(os.path.join(f, meant)) for f in (image_folder, os.path.dirname(path))]
        permitted = [p for p in candidates if self.allow_outside or is_inside(p, self.root)]
        found = next((f for p in permitted if meant and (f := self._listing.find(p))), None)
        if named and not permitted:
            message = f"{short(named)} is outside {self.root}; dataloader.data.allow_outside=True permits it"
            self.findings.append(Finding("outside-root", where, message, split))
        elif found is None:
            stem = os.path.splitext(os.path.basename(path))[0]
            message = f"no image {stem}.* and no file {short(named)} in {image_folder}"
            self.findings.append(Finding("missing-image", where, message, split))
        return found


def _stem(path: str, folder: str) -> str:
    return same_name(os.path.splitext(os.path.relpath(path, folder))[0] + ".")
