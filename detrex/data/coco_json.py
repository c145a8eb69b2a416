"""Reading a COCO-format json strictly: what cannot be trained on is an error that names the file and the record.

detectron2's own reader stops at the first bad record with an assertion, or reads on; and evaluation with pycocotools
goes silently wrong on annotation ids that start at 0 (it marks "unmatched" by 0) or that repeat. Here every record is
checked before anything is built, harmless flaws are repaired and counted, and the rest is reported together.
"""

from __future__ import annotations

import json
import math
import os
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from detectron2.structures import BoxMode

MAX_REPORTED = 10


class DatasetError(ValueError):
    """A data set that cannot be used as it is; the message names the file, the records and what to do."""


@dataclass(frozen=True)
class CocoData:
    """A checked COCO-format data set.

    Attributes:
        json_file: path that was read.
        category_ids: ids as in the file, ascending; position in this tuple is the contiguous class id.
        class_names: names in the same order.
        records: detectron2's standard dicts (file_name, height, width, image_id, annotations with contiguous
            ``category_id`` and XYWH_ABS boxes in pixels), ordered by image id; degenerate boxes are left out.
        dropped: reason -> number of boxes left out of ``records``.
        repairs: what an evaluation against the file as it stands would get wrong; empty for a clean file.
        areas: COCO areas (square pixels) of the kept annotations, one list per record.
    """

    json_file: str
    category_ids: tuple[int, ...]
    class_names: tuple[str, ...]
    records: list[dict[str, Any]] = field(repr=False)
    dropped: Mapping[str, int]
    repairs: tuple[str, ...]
    areas: list[list[float]] = field(repr=False)

    @property
    def max_objects(self) -> int:
        """Largest number of non-crowd objects on one image."""
        return max((sum(not a["iscrowd"] for a in r["annotations"]) for r in self.records), default=0)

    def count_per_class(self) -> list[int]:
        """Number of non-crowd boxes of each class, in the order of ``class_names``."""
        counts = Counter(a["category_id"] for r in self.records for a in r["annotations"] if not a["iscrowd"])
        return [counts[i] for i in range(len(self.class_names))]


def degenerate_reason(bbox_xywh: Sequence[float], width: float, height: float) -> str | None:
    """Why a box (x, y, w, h in pixels) cannot be learnt on an image of this size, or None if it can."""
    x, y, w, h = bbox_xywh
    if not all(math.isfinite(v) for v in (x, y, w, h)):
        return "not finite"
    if w <= 0 or h <= 0:
        return "zero or negative size"
    if x >= width or y >= height or x + w <= 0 or y + h <= 0:
        return "outside the image"
    return None


def read_coco_json(json_file: str | os.PathLike[str], image_root: str | os.PathLike[str]) -> CocoData:
    """Read and check a COCO-format detection json.

    Args:
        json_file: path of the json.
        image_root: folder that the images' ``file_name`` is relative to.

    Raises:
        DatasetError: file missing or not json; duplicate or non-integer ids; unnamed or repeated categories; an
            annotation with an unknown category or image, or without a box of four numbers; a missing image file.
    """
    path = os.fspath(json_file)
    content = _load(path)
    problems: list[str] = []
    categories = _check_categories(content["categories"], problems)
    records = _check_images(content["images"], os.fspath(image_root), problems)
    contiguous = {category_id: i for i, category_id in enumerate(categories)}
    areas, dropped, repairs = _attach_annotations(content["annotations"], records, contiguous, problems)
    if problems:
        raise DatasetError(_summary(path, problems))
    order = sorted(records)
    return CocoData(
        json_file=path,
        category_ids=tuple(categories),
        class_names=tuple(categories.values()),
        records=[records[i] for i in order],
        dropped=dropped,
        repairs=repairs,
        areas=[areas[i] for i in order],
    )


def write_coco_json(data: CocoData, path: str | os.PathLike[str]) -> None:
    """Write ``data`` as a COCO json that pycocotools evaluates correctly: ids from 1, areas and crowd flags present.

    The file appears in one move, so that several processes may write the same one.
    """
    images, annotations = [], []
    for record, areas in zip(data.records, data.areas, strict=True):
        size = {"height": record["height"], "width": record["width"]}
        images.append({"id": record["image_id"], "file_name": record["file_name"], **size})
        for annotation, area in zip(record["annotations"], areas, strict=True):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": record["image_id"],
                    "category_id": data.category_ids[annotation["category_id"]],
                    "bbox": annotation["bbox"],
                    "area": area,
                    "iscrowd": annotation["iscrowd"],
                }
            )
    names = zip(data.category_ids, data.class_names, strict=True)
    content = {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": i, "name": name} for i, name in names],
    }
    target = os.fspath(path)
    os.makedirs(os.path.dirname(target) or ".", exist_ok=True)
    temporary = f"{target}.{os.getpid()}.tmp"
    with open(temporary, "w", encoding="utf-8") as f:
        json.dump(content, f)
    os.replace(temporary, target)


def _load(path: str) -> dict[str, list[dict[str, Any]]]:
    try:
        with open(path, encoding="utf-8") as f:
            content = json.load(f)
    except FileNotFoundError:
        raise DatasetError(f"{path}: no such file; give the path of a COCO-format json") from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as e:
        raise DatasetError(f"{path}: cannot be read as json: {e}") from e
    for key in ("images", "annotations", "categories"):
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            raise DatasetError(f'{path}: no list "{key}" at the top level; a COCO detection json has images, '
                               "annotations and categories")  # fmt: skip
        bad = next((i for i, item in enumerate(content[key]) if not isinstance(item, dict)), None)
        if bad is not None:
            raise DatasetError(f"{path}: {key}[{bad}] is not an object")
    for key in ("images", "categories"):
        if not content[key]:
            raise DatasetError(f'{path}: the list "{key}" is empty')
    return content


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_area(value: object) -> bool:
    return _is_number(value) and math.isfinite(value)


def _check_categories(items: list[dict[str, Any]], problems: list[str]) -> dict[int, str]:
    """Category id -> name, ascending by id."""
    names: dict[int, str] = {}
    for i, item in enumerate(items):
        category_id, name = item.get("id"), item.get("name")
        if not _is_int(category_id):
            problems.append(f"categories[{i}]: id {category_id!r} is not an integer")
        elif category_id in names:
            problems.append(f"categories[{i}]: duplicate category id {category_id} ({names[category_id]!r}, {name!r})")
        elif not isinstance(name, str) or not name:
            problems.append(f"categories[{i}]: category {category_id} has no name")
        elif name in names.values():
            problems.append(f"categories[{i}]: the name {name!r} is used by two categories")
        else:
            names[category_id] = name
    return dict(sorted(names.items()))


def _check_images(items: list[dict[str, Any]], root: str, problems: list[str]) -> dict[int, dict[str, Any]]:
    """Image id -> record without annotations."""
    records: dict[int, dict[str, Any]] = {}
    listing = _Listing()
    for i, item in enumerate(items):
        image_id, name, size = item.get("id"), item.get("file_name"), (item.get("height"), item.get("width"))
        if not _is_int(image_id):
            problems.append(f"images[{i}] ({name!r}): id {image_id!r} is not an integer")
            continue
        if image_id in records:
            first = os.path.relpath(records[image_id]["file_name"], root)
            problems.append(f"images[{i}]: duplicate image id {image_id} ({first!r}, {name!r})")
            continue
        if not isinstance(name, str) or not name:
            problems.append(f"images[{i}]: image {image_id} has no file_name")
            name = ""
        elif not listing.has(file_name := os.path.join(root, name)):
            problems.append(f"images[{i}]: image {image_id}: no file {file_name}; check dataloader.data.image_root")
        if not all(_is_int(v) and v > 0 for v in size):
            problems.append(
                f"images[{i}]: image {image_id} ({name!r}): height, width = {size} are not positive integers"
            )
            size = (1, 1)
        records[image_id] = {
            "file_name": os.path.join(root, name),
            "height": size[0],
            "width": size[1],
            "image_id": image_id,
            "annotations": [],
        }
    return records


class _Listing:
    """File existence by one directory listing per folder: 100,000 stat calls on a network disk take minutes."""

    def __init__(self) -> None:
        self._folders: dict[str, frozenset[str]] = {}

    def has(self, path: str) -> bool:
        folder, name = os.path.split(path)
        if folder not in self._folders:
            try:
                self._folders[folder] = frozenset(os.listdir(folder or "."))
            except OSError:
                self._folders[folder] = frozenset()
        return name in self._folders[folder]


def _attach_annotations(
    items: list[dict[str, Any]],
    records: dict[int, dict[str, Any]],
    contiguous: dict[int, int],
    problems: list[str],
) -> tuple[dict[int, list[float]], Counter[str], tuple[str, ...]]:
    """Append each annotation to its record; returns (areas per image id, dropped boxes by reason, repairs)."""
    areas: dict[int, list[float]] = defaultdict(list)
    dropped: Counter[str] = Counter()
    for i, item in enumerate(items):
        where = f"annotations[{i}] (id {item.get('id')!r}, image {item.get('image_id')!r})"
        bbox, record = item.get("bbox"), records.get(_hashable(item.get("image_id")))
        if record is None:
            problems.append(f"{where}: unknown image id {item.get('image_id')!r}")
        if _hashable(item.get("category_id")) not in contiguous:
            known = ", ".join(map(str, list(contiguous)[:20]))
            problems.append(f"{where}: unknown category id {item.get('category_id')!r}; the file defines {known}")
        elif not isinstance(bbox, list) or len(bbox) != 4 or not all(map(_is_number, bbox)):
            problems.append(f"{where}: bbox {bbox!r} is not [x, y, width, height]")
        elif record is not None:
            reason = degenerate_reason(bbox, record["width"], record["height"])
            if reason is not None:
                dropped[reason] += 1
                continue
            record["annotations"].append(
                {
                    "bbox": [float(v) for v in bbox],
                    "bbox_mode": BoxMode.XYWH_ABS,
                    "category_id": contiguous[item["category_id"]],
                    "iscrowd": int(bool(item.get("iscrowd", 0))),
                }
            )
            area = item["area"] if _is_area(item.get("area")) else bbox[2] * bbox[3]
            areas[record["image_id"]].append(float(area))
    return areas, dropped, _needed_repairs(items, dropped)


def _hashable(value: object) -> object:
    """Ids of a wrong type look up as unknown instead of raising, and True does not pass for 1."""
    return value if _is_int(value) else None


def _needed_repairs(items: list[dict[str, Any]], dropped: Counter[str]) -> tuple[str, ...]:
    ids = [item.get("id") for item in items]
    repairs = []
    if not all(_is_int(i) and i > 0 for i in ids):
        repairs.append("annotation ids that are missing or not positive")
    elif len(set(ids)) != len(ids):
        repairs.append("repeated annotation ids")
    if not all(_is_area(item.get("area")) for item in items):
        repairs.append("missing areas")
    if not all(item.get("iscrowd", 0) in (0, 1) for item in items) or any("iscrowd" not in item for item in items):
        repairs.append("missing crowd flags")
    if dropped:
        repairs.append("degenerate boxes")
    return tuple(repairs)


def _summary(path: str, problems: Sequence[str]) -> str:
    lines = [f"{path}: {len(problems)} problem(s)", *(f"  {p}" for p in problems[:MAX_REPORTED])]
    if len(problems) > MAX_REPORTED:
        lines.append(f"  ... and {len(problems) - MAX_REPORTED} more")
    return "\n".join(lines)
