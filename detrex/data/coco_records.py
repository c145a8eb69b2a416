"""The records of a COCO json, checked one by one; what is wrong is collected in a list of sentences."""

from __future__ import annotations

import math
import os
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

from detectron2.structures import BoxMode


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


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_area(value: object) -> bool:
    return _is_number(value) and math.isfinite(value)


def check_categories(items: list[dict[str, Any]], problems: list[str]) -> dict[int, str]:
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


def check_images(items: list[dict[str, Any]], root: str, problems: list[str]) -> dict[int, dict[str, Any]]:
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


def attach_annotations(
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
