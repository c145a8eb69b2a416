"""Reading YOLO data sets: a data.yaml and one text file of ``class x_centre y_centre width height`` per image."""

from __future__ import annotations

import math
import os
from typing import Any

import yaml

from detrex.data.checks.findings import DatasetError, Finding
from detrex.data.checks.images import IMAGE_SUFFIXES
from detrex.data.checks.paths import FileListing, is_inside, list_files
from detrex.utils.text import short

from .coco_records import WHERE
from .source import SPLIT_NAMES, DataSource, SplitSource, annotation_entry, image_entries

YAML_NAMES = ("data.yaml", "data.yml", "dataset.yaml", "dataset.yml")
NOT_LABELS = frozenset({"classes.txt", "README.txt", "README.roboflow.txt", "README.dataset.txt"})
MIN_LABELS = 5  # fewer do not show a convention


def find_yaml(root: str) -> str | None:
    """The file that describes a YOLO data set: data.yaml, dataset.yaml, or the only yaml with class names."""
    names = sorted(n for n in os.listdir(root) if n.endswith((".yaml", ".yml")))
    for name in YAML_NAMES:
        if name in names:
            return os.path.join(root, name)
    with_names = [path for n in names if _has_names(path := os.path.join(root, n))]
    return with_names[0] if len(with_names) == 1 else None


def read_yolo(root: str, yaml_file: str, *, allow_outside: bool) -> DataSource:
    """Read the splits that a data.yaml names.

    Args:
        root: folder of the data set.
        yaml_file: its description.
        allow_outside: whether paths may leave ``root``.

    Raises:
        DatasetError: the yaml cannot be read, names no classes, or its training images are not there.
    """
    description = _load_yaml(yaml_file)
    names = _class_names(description, yaml_file)
    reader = _Reader(root, yaml_file, description, names, allow_outside)
    for key, split in SPLIT_NAMES.items():
        if split not in reader.splits:
            reader.read_split(key, split)
    if not reader.splits:
        message = f"train: {short(description.get('train'))} leads to no images"
        raise DatasetError.of("empty-split", yaml_file, message)
    return DataSource(root, "YOLO", reader.splits, tuple(reader.findings))


def _has_names(path: str) -> bool:
    try:
        return "names" in _load_yaml(path)
    except DatasetError:
        return False


def _load_yaml(path: str) -> dict[str, Any]:
    try:
        with open(path, encoding="utf-8-sig") as f:
            content = yaml.safe_load(f)
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as e:
        message = f"cannot be read as yaml: {' '.join(str(e).split())}"
        raise DatasetError.of("unreadable-annotations", path, message) from e
    if not isinstance(content, dict):
        raise DatasetError.of("unreadable-annotations", path, "is no mapping with names, train and val")
    return content


def _class_names(description: dict[str, Any], path: str) -> list[str]:
    names = description.get("names")
    if isinstance(names, dict):
        if not names or set(names) != set(range(len(names))):
            raise DatasetError.of("bad-classes", path, f"the keys of names {short(names)} are not 0, 1, 2, ...")
        names = [names[i] for i in range(len(names))]
    if not isinstance(names, list) or not names:
        raise DatasetError.of("bad-classes", path, f"names {short(names)} is no list of class names")
    bad = next((n for n in names if not isinstance(n, str)), None)
    if bad is not None:
        raise DatasetError.of("bad-classes", path, f"the class name {short(bad)} is no text; put it in quotes")
    if "nc" in description and description["nc"] != len(names):
        message = f"nc is {short(description['nc'])}, but names lists {len(names)} classes"
        raise DatasetError.of("bad-classes", path, message)
    return names


class _Reader:
    def __init__(self, root: str, yaml_file: str, description: dict, names: list[str], allow_outside: bool) -> None:
        self.root, self.yaml_file, self.description = root, yaml_file, description
        self.categories = [{"id": i, "name": name, WHERE: yaml_file} for i, name in enumerate(names)]
        self.allow_outside = allow_outside
        self.splits: dict[str, SplitSource] = {}
        self.findings: list[Finding] = []
        self._listing = FileListing()

    def read_split(self, key: str, split: str) -> None:
        """Read what the yaml names under ``key``, if anything, as a split."""
        entries = self.description.get(key)
        if entries is None or entries == "":
            return
        files: list[str] = []
        for entry in entries if isinstance(entries, list) else [entries]:
            files += self._files(entry, key, split)
        if not files:
            return
        images = image_entries(sorted(dict.fromkeys(files)), self.root, split, self.findings)
        labels = {path: self._label_file(path) for path in images}
        annotations = self._annotations(images, labels, split)
        self._report_unlisted(labels, split)
        content = {"images": list(images.values()), "annotations": annotations, "categories": self.categories}
        self.splits[split] = SplitSource(self.yaml_file, self.root, None if self.allow_outside else self.root, content)

    def _files(self, entry: Any, key: str, split: str) -> list[str]:
        """Image files of a folder, of a text file that lists them, or of one image."""
        path = self._locate(entry, key)
        if path is None:
            message = f"{key}: {short(entry)} is not there"
            self.findings.append(Finding("missing-split", self.yaml_file, message, split))
            return []
        if os.path.isdir(path):
            return list_files(path, IMAGE_SUFFIXES)
        try:
            with open(path, encoding="utf-8-sig") as f:
                lines = [line.strip() for line in f]
        except (OSError, ValueError) as e:
            raise DatasetError.of("unreadable-annotations", path, f"cannot be read as a list of images: {e}") from e
        return self._listed_files(path, [line for line in lines if line], split)

    def _listed_files(self, list_file: str, lines: list[str], split: str) -> list[str]:
        files = []
        for number, line in enumerate(lines, 1):
            where = f"{os.path.relpath(list_file, self.root)}:{number}"
            bases = (self._base(), os.path.dirname(list_file), self.root)
            candidates = [os.path.normpath(os.path.join(base, line)) for base in bases]
            path = next((c for c in candidates if self._listing.has(c)), candidates[0])
            if not self._permitted(path):
                message = f"{short(line)} is outside {self.root}; dataloader.data.allow_outside=True permits it"
                self.findings.append(Finding("outside-root", where, message, split))
            elif not self._listing.has(path):
                self.findings.append(Finding("missing-image", where, f"no file {path}", split))
            else:
                files.append(path)
        return files

    def _base(self) -> str:
        path = self.description.get("path")
        return os.path.join(os.path.dirname(self.yaml_file), path if isinstance(path, str) else "")

    def _locate(self, entry: Any, key: str) -> str | None:
        """Where a path in the yaml leads; Roboflow writes "../train/images" for a folder beside the yaml."""
        if not isinstance(entry, str) or "\0" in entry:
            message = f"{key}: {short(entry)} is no path"
            raise DatasetError.of("unreadable-annotations", self.yaml_file, message)
        inner = os.path.normpath(entry.lstrip("/"))
        while inner.startswith(".." + os.sep):
            inner = inner[3:]
        candidates = [os.path.join(self._base(), entry), os.path.join(self.root, entry), os.path.join(self.root, inner)]
        existing = [os.path.normpath(c) for c in candidates if os.path.exists(c)]
        permitted = [c for c in existing if self._permitted(c)]
        if existing and not permitted:
            message = f"{key}: {short(entry)} is outside {self.root}; dataloader.data.allow_outside=True permits it"
            raise DatasetError.of("outside-root", self.yaml_file, message)
        return permitted[0] if permitted else None

    def _permitted(self, path: str) -> bool:
        return self.allow_outside or is_inside(path, self.root)

    def _label_file(self, image: str) -> str | None:
        """In "labels" in the place of the path's last "images", or else beside the image; None if neither is there."""
        stem = os.path.splitext(image)[0]
        parts = stem.split(os.sep)
        candidates = [stem + ".txt"]
        if "images" in parts[:-1]:
            last = len(parts) - 2 - parts[-2::-1].index("images")
            candidates.insert(0, os.sep.join([*parts[:last], "labels", *parts[last + 1 :]]) + ".txt")
        return next((c for c in candidates if self._listing.has(c)), None)

    def _annotations(self, images: dict[str, dict], labels: dict[str, str | None], split: str) -> list[dict[str, Any]]:
        annotations: list[dict[str, Any]] = []
        values = []
        for path, image in images.items():
            label = labels[path]
            if label is None:
                continue
            for where, class_id, box in self._read_labels(label, split):
                values.append(box)
                x, y, w, h = box
                xywh = [(x - w / 2) * image["width"], (y - h / 2) * image["height"]]
                xywh += [w * image["width"], h * image["height"]]
                annotations.append(annotation_entry(image["id"], class_id, xywh, where, len(annotations) + 1))
        if problem := _wrong_convention(values):
            self.findings.append(Finding("wrong-convention", "labels", problem, split))
        return annotations

    def _read_labels(self, path: str, split: str) -> list[tuple[str, int, list[float]]]:
        """(place, class id, [x centre, y centre, width, height]) of each line."""
        name = os.path.relpath(path, self.root)
        try:
            with open(path, encoding="utf-8-sig") as f:
                lines = f.read().splitlines()
        except (OSError, ValueError) as e:
            self.findings.append(Finding("unreadable-annotations", name, f"cannot be read as text: {e}", split))
            return []
        labels = []
        for number, line in enumerate(lines, 1):
            where, columns = f"{name}:{number}", line.split()
            if not columns:
                continue
            try:
                if "_" in line:  # Python reads 1_0 as 10
                    raise ValueError
                class_id, numbers = int(columns[0]), [float(c) for c in columns[1:]]
            except ValueError:
                class_id, numbers = 0, []
            if len(numbers) >= 6 and len(numbers) % 2 == 0:
                self.findings.append(Finding("polygon-label", where, f"{len(numbers) // 2} points", split))
                labels.append((where, class_id, _bounding_box(numbers)))
            elif len(numbers) == 4:
                labels.append((where, class_id, numbers))
            else:
                message = f"{short(line)} is not: class x_centre y_centre width height"
                self.findings.append(Finding("malformed-box", where, message, split))
        return labels

    def _report_unlisted(self, labels: dict[str, str | None], split: str) -> None:
        used = set(labels.values())
        for folder in sorted({os.path.dirname(path) for path in used if path}):
            for name in sorted(os.listdir(folder)):
                path = os.path.join(folder, name)
                if name.endswith(".txt") and name not in NOT_LABELS and path not in used:
                    message = "a label file without an image"
                    self.findings.append(Finding("unlisted-file", os.path.relpath(path, self.root), message, split))


def _bounding_box(points: list[float]) -> list[float]:
    """[x centre, y centre, width, height] around x1 y1 x2 y2 ..."""
    xs, ys = points[0::2], points[1::2]
    left, right, top, bottom = min(xs), max(xs), min(ys), max(ys)
    return [(left + right) / 2, (top + bottom) / 2, right - left, bottom - top]


def _wrong_convention(boxes: list[list[float]]) -> str | None:
    finite = [b for b in boxes if all(map(math.isfinite, b))]
    if len(finite) < MIN_LABELS:
        return None
    if 2 * sum(max(b) > 1.5 for b in finite) > len(finite):
        return "most values are greater than 1: they are pixels, not fractions of the image"
    leaving = sum(x + w / 2 > 1.01 or y + h / 2 > 1.01 for x, y, w, h in finite)
    if 2 * leaving > len(finite) and all(a < c <= 1.01 and b < d <= 1.01 for a, b, c, d in finite):
        return f"{leaving} of {len(finite)} boxes leave their image as (centre, size), and all fit as (x1, y1, x2, y2)"
    return None
