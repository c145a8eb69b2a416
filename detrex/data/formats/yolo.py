"""Reading YOLO data sets: class names, images, and one text file of ``class x_centre y_centre width height`` per image.

Described by a data.yaml (Ultralytics, Roboflow, FiftyOne), by darknet's obj.data or obj.names (CVAT), or by a
classes.txt (Label Studio, labelImg).
"""

from __future__ import annotations

import math
import os
from typing import Any

import yaml

from detrex.data.checks.findings import DatasetError, Finding
from detrex.data.checks.images import IMAGE_SUFFIXES
from detrex.data.checks.paths import (
    FileListing,
    is_inside,
    list_files,
    list_folder,
    read_lines,
    read_text,
    rewritings,
    same_name,
)
from detrex.utils.text import count_of, short

from .coco_json import WHERE, as_int
from .source import SPLIT_NAMES, DataSource, SplitSource, annotation_entry, image_entries

YAML_NAMES = ("data.yaml", "data.yml", "dataset.yaml", "dataset.yml")
NAMES_FILES = ("obj.data", "obj.names", "classes.txt", "labels/classes.txt")
IMAGE_LISTS = ("images.txt", "images", "data", "")  # of a data set without splits; FiftyOne, Label Studio, labelImg
NOT_LABELS = ("classes.txt", "labels.txt", "images.txt", "readme.txt", "readme.roboflow.txt", "readme.dataset.txt")
MIN_LABELS = 5  # fewer do not show a convention
SLACK = 0.01  # of the image's side, that a keypoint may lie outside its box


def find_yaml(root: str) -> str | None:
    """The file that describes a YOLO data set: data.yaml, dataset.yaml, or the only yaml with class names."""
    names = list_folder(root, (".yaml", ".yml"))
    for name in YAML_NAMES:
        if found := next((n for n in names if n.lower() == name), None):
            return os.path.join(root, found)
    with_names = [path for n in names if _has_names(path := os.path.join(root, n))]
    return with_names[0] if len(with_names) == 1 else None


def find_names(root: str) -> str | None:
    """The file with the class names of a YOLO data set without a yaml, if it has labels."""
    found = next((p for n in NAMES_FILES if os.path.lexists(p := os.path.join(root, n))), None)
    return found if found and has_labels(root) else None


def has_labels(root: str) -> bool:
    """Whether there are text files that may be labels."""
    return any(_is_label(os.path.basename(path)) for path in list_files(root, frozenset({".txt"})))


def read_yolo(root: str, description_file: str, *, allow_outside: bool) -> DataSource:
    """Read the splits that a description names.

    Args:
        root: folder of the data set.
        description_file: of ``find_yaml`` or ``find_names``.
        allow_outside: whether paths may leave ``root``.

    Raises:
        DatasetError: the description cannot be read, names no classes, or its training images are not there.
    """
    if description_file.lower().endswith((".yaml", ".yml")):
        description = _load_yaml(description_file)
    else:
        description = _load_names(root, description_file)
    names = _class_names(description, description_file)
    reader = _Reader(root, description_file, description, names, allow_outside)
    for key, split in SPLIT_NAMES.items():
        if split not in reader.splits:
            reader.read_split(key, split)
    if not reader.splits:
        findings = "".join(f"; {f.where}: {f.message}" for f in reader.findings[:3])
        message = f"train: {short(description.get('train'))} leads to no images{findings}"
        raise DatasetError.of("empty-split", description_file, message)
    notes = (f"keypoints (kpt_shape {reader.kpt_shape}) are left out, the boxes are read",) if reader.kpt_shape else ()
    return DataSource(root, "YOLO", reader.splits, tuple(reader.findings), notes)


def _is_label(name: str) -> bool:
    return name.lower().endswith(".txt") and name.lower() not in NOT_LABELS


def _has_names(path: str) -> bool:
    try:
        return "names" in _load_yaml(path)
    except DatasetError:
        return False


def _load_yaml(path: str) -> dict[str, Any]:
    text = read_text(path, "yaml")
    try:
        content = yaml.safe_load(text)
    except (ValueError, RecursionError, yaml.YAMLError) as e:
        message = f"cannot be read as yaml: {' '.join(str(e).split())}"
        raise DatasetError.of("unreadable-annotations", path, message) from e
    if not isinstance(content, dict):
        raise DatasetError.of("unreadable-annotations", path, "is no mapping with names, train and val")
    return content


def _load_names(root: str, path: str) -> dict[str, Any]:
    """What a data.yaml would say, from darknet's obj.data or from a file with one class name a line."""
    description: dict[str, Any] = {}
    if path.endswith(".data"):
        pairs = [line.partition("=") for line in read_lines(path)]
        description = {key.strip().lower(): value.strip() for key, _, value in pairs if value.strip()}
        for key, value in description.items():  # CVAT writes data/ before what lies in the data set's own folder
            if not os.path.lexists(os.path.join(root, value)):
                description[key] = os.path.basename(value)
        if "classes" in description:
            description["nc"] = as_int(description["classes"])
        data_file, path = path, os.path.join(root, description.get("names", "obj.names"))
        if not is_inside(path, root):
            raise DatasetError.of("outside-root", data_file, f"names: {short(path)} is outside {root}")
    names = read_lines(path)
    while names and not names[-1]:
        names.pop()
    description["names"] = names
    if not any(key in description for key in SPLIT_NAMES):
        for key in SPLIT_NAMES:
            places = (f"{key}.txt", f"images/{key}", f"{key}/images", key)
            if found := next((p for p in places if os.path.exists(os.path.join(root, p))), None):
                description[key] = found
    if not any(key in description for key in SPLIT_NAMES):
        description["train"] = next(p for p in IMAGE_LISTS if os.path.exists(os.path.join(root, p))) or "."
    return description


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
        self.kpt_shape = _kpt_shape(description, yaml_file)
        self._listing = FileListing()
        self._lists: set[str] = set()
        self._outside = f"is outside {root}; dataloader.data.allow_outside=True permits it"

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
        files = sorted(dict.fromkeys(files))
        images = image_entries(files, self.root, split, self.findings)
        places = {path: self._label_places(path) for path in files}
        labels = {path: next(filter(None, map(self._listing.find, places[path])), None) for path in files}
        annotations = self._annotations(images, labels, split)
        self._report_unlisted(places, set(labels.values()), split)
        content = {"images": list(images.values()), "annotations": annotations, "categories": self.categories}
        self.splits[split] = SplitSource(self.yaml_file, self.root, None if self.allow_outside else self.root, content)

    def _report(self, kind: str, where: str, message: str, split: str) -> None:
        self.findings.append(Finding(kind, where, message, split))

    def _files(self, entry: Any, key: str, split: str) -> list[str]:
        """Image files of a folder, of a text file that lists them, or of one image."""
        path = self._locate(entry, key)
        if path is None:
            self._report("missing-split", self.yaml_file, f"{key}: {short(entry)} is not there", split)
            return []
        if os.path.isdir(path):
            files = list_files(path, IMAGE_SUFFIXES)
            if not files:
                others = list_files(path)
                kind = "empty-split" if others else "missing-split"
                message = f"{key}: no images in {path}" + (f", only files like {others[0]}" if others else "")
                self._report(kind, self.yaml_file, message, split)
            return files
        if os.path.splitext(path)[1].lower() in IMAGE_SUFFIXES:
            return [path]
        self._lists.add(path)
        return self._listed_files(path, split)

    def _listed_files(self, list_file: str, split: str) -> list[str]:
        lines = {i: line for i, line in enumerate(read_lines(list_file), 1) if line}
        bases = (self._base(), os.path.dirname(list_file), self.root)
        for rewrite in rewritings(list(lines.values())):
            places = {i: [os.path.normpath(os.path.join(b, rewrite(line))) for b in bases] for i, line in lines.items()}
            found = {i: next((f for p in paths if (f := self._listing.find(p))), None) for i, paths in places.items()}
            if any(path and self._permitted(path) for path in found.values()):
                break
        else:
            found = {i: os.path.normpath(os.path.join(bases[0], line)) for i, line in lines.items()}
        files = []
        for number, line in lines.items():
            where = f"{os.path.relpath(list_file, self.root)}:{number}"
            path = found[number] or places[number][0]
            if not self._permitted(path):
                self._report("outside-root", where, f"{short(line)} {self._outside}", split)
            elif not self._listing.find(path):
                self._report("missing-image", where, f"no file {path}", split)
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
            raise DatasetError.of("outside-root", self.yaml_file, f"{key}: {short(entry)} {self._outside}")
        return permitted[0] if permitted else None

    def _permitted(self, path: str) -> bool:
        return self.allow_outside or is_inside(path, self.root)

    def _label_places(self, image: str) -> list[str]:
        """In "labels" in the place of the path's last "images", and beside the image."""
        stem = os.path.splitext(image)[0]
        parts = stem.split(os.sep)
        places = [stem + ".txt"]
        if "images" in parts[:-1]:
            last = len(parts) - 2 - parts[-2::-1].index("images")
            places.insert(0, os.sep.join([*parts[:last], "labels", *parts[last + 1 :]]) + ".txt")
        return places

    def _annotations(self, images: dict[str, dict], labels: dict[str, str | None], split: str) -> list[dict[str, Any]]:
        annotations: list[dict[str, Any]] = []
        values, polygons = [], []
        for path, image in images.items():
            if labels[path] is None:
                continue
            for where, class_id, numbers in self._read_labels(labels[path], split):
                if len(numbers) > 4:
                    polygons.append(numbers)
                x, y, w, h = box = numbers if len(numbers) == 4 else _bounding_box(numbers)
                values.append(box)
                xywh = [(x - w / 2) * image["width"], (y - h / 2) * image["height"]]
                xywh += [w * image["width"], h * image["height"]]
                annotations.append(annotation_entry(image["id"], class_id, xywh, where, len(annotations) + 1))
        if len(polygons) >= MIN_LABELS and 2 * sum(map(_looks_like_keypoints, polygons)) > len(polygons):
            message = f"most lines are boxes with keypoints inside; state kpt_shape in {self.yaml_file}"
            self._report("wrong-convention", "labels", message, split)
        elif problem := _wrong_convention(values):
            self._report("wrong-convention", "labels", problem, split)
        return annotations

    def _read_labels(self, path: str, split: str) -> list[tuple[str, int, list[float]]]:
        """(place, class id, [x centre, y centre, width, height] or the points of a polygon) of each line."""
        name = os.path.relpath(path, self.root)
        try:
            lines = read_lines(path)
        except DatasetError as e:
            self.findings += [Finding(f.kind, name, f.message, split) for f in e.findings]
            return []
        labels = []
        for number, line in enumerate(lines, 1):
            where = f"{name}:{number}"
            if not line:
                continue
            class_id, numbers = _numbers(line)
            if self.kpt_shape and len(numbers) == 4 + self.kpt_shape[0] * self.kpt_shape[1]:
                numbers = numbers[:4]
            if problem := self._line_problem(class_id, numbers):
                self._report("malformed-box", where, f"{short(line)} {problem}", split)
                continue
            if len(numbers) > 4:
                self._report("polygon-label", where, count_of(len(numbers) // 2, "point"), split)
            labels.append((where, class_id, numbers))
        return labels

    def _line_problem(self, class_id: int | None, numbers: list[float]) -> str | None:
        """Why a line is neither a box nor a polygon."""
        if class_id is not None and len(numbers) == 4:
            return None
        if class_id is None or len(numbers) < 6:
            return "is not: class x_centre y_centre width height"
        if self.kpt_shape:
            return f"has {count_of(len(numbers), 'number')} after the class; kpt_shape {self.kpt_shape} has 4 or more"
        if len(numbers) % 2 or not all(-0.5 <= v <= 1.5 for v in numbers if math.isfinite(v)):
            return "is neither a box nor a polygon of fractions; for keypoints, state kpt_shape in data.yaml"
        return None

    def _report_unlisted(self, places: dict[str, list[str]], used: set[str | None], split: str) -> None:
        """Label files without an image, and images of a suffix that is not read, in the folders of labels."""
        folders: dict[str, set[str]] = {}
        for image, paths in places.items():
            folder = next((f for f in map(os.path.dirname, paths) if os.path.isdir(f)), "")
            folders.setdefault(folder, set()).add(os.path.dirname(image))
        for folder, image_folders in sorted(folders.items()):
            names = [name for name in list_folder(folder) if _is_label(name)]
            paths = {os.path.join(folder, name) for name in names} - used - self._lists
            others = {_stem(n): n for f in image_folders for n in list_folder(f) if paths and not _is_label(n)}
            for path in sorted(paths):
                stem, name = _stem(os.path.basename(path)), os.path.relpath(path, self.root)
                if stem in others:
                    message = f"its image {others[stem]} has a format that is not read; convert it to jpg or png"
                    self._report("unreadable-image", name, message, split)
                else:
                    self._report("unlisted-file", name, "a label file without an image", split)


def _stem(name: str) -> str:
    return os.path.splitext(same_name(name))[0]


def _kpt_shape(description: dict[str, Any], path: str) -> list[int] | None:
    """[number of keypoints, numbers of each] that a data.yaml states."""
    shape = description.get("kpt_shape")
    if shape is None:
        return None
    if not isinstance(shape, list) or len(shape) != 2 or not all(type(v) is int for v in shape):
        raise DatasetError.of("unreadable-annotations", path, f"kpt_shape {short(shape)} is no list like [17, 3]")
    if shape[0] < 1 or shape[1] not in (2, 3):
        message = f"kpt_shape {short(shape)}: a keypoint has 2 or 3 numbers, and there is at least one"
        raise DatasetError.of("unreadable-annotations", path, message)
    return shape


def _numbers(line: str) -> tuple[int | None, list[float]]:
    """Class id and the numbers after it; None and [] of a line that is something else."""
    class_id, *columns = line.split()
    try:
        if "_" in line:  # Python reads 1_0 as 10
            raise ValueError
        return as_int(class_id), [float(column) for column in columns]
    except ValueError:
        return None, []


def _looks_like_keypoints(numbers: list[float]) -> bool:
    """Whether numbers are a box and keypoints in it rather than the points of a polygon."""
    x, y, w, h = numbers[:4]

    def outside(px: float, py: float) -> bool:
        return abs(px - x) > w / 2 + SLACK or abs(py - y) > h / 2 + SLACK

    for size in (3, 2):
        points = [numbers[i : i + size] for i in range(4, len(numbers), size)]
        if len(points[-1]) != size or (size == 3 and not all(p[2] in (0, 1, 2) for p in points)):
            continue
        labelled = [p for p in points if any(p[:2])]
        if not any(outside(*p[:2]) for p in labelled) and (size == 3 or outside(w, h)):
            return True
    return False


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
