"""Annotations of a COCO json, checked one by one and attached to their images."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from typing import Any

from detectron2.structures import BoxMode

from detrex.data.checks.boxes import PIXEL_TOLERANCE, degenerate_reason, overhang, wrong_convention
from detrex.data.checks.findings import Finding
from detrex.utils.text import short

from .coco_records import WHERE, is_int

_KIND_OF_REASON = {
    "not finite": "box-not-finite",
    "zero or negative size": "box-without-area",
    "outside the image": "box-outside",
}


def attach_annotations(
    items: list[dict[str, Any]],
    records: dict[int, dict[str, Any]],
    contiguous: dict[int, int],
    findings: list[Finding],
) -> tuple[dict[int, list[float]], Counter[str], tuple[str, ...]]:
    """Append each annotation to its record.

    Args:
        items: the list "annotations".
        records: image id -> record; boxes are appended to its "annotations".
        contiguous: category id -> class id.
        findings: what is wrong is appended.

    Returns:
        COCO areas per image id in the order of the annotations, dropped boxes by reason, and what pycocotools would
        misread in the file.
    """
    areas: dict[int, list[float]] = defaultdict(list)
    dropped: Counter[str] = Counter()
    classes_of_box: dict[tuple, set[int]] = defaultdict(set)
    boxes: list[tuple[list[float], float, float]] = []
    for i, item in enumerate(items):
        where = item.get(WHERE) or f"annotations[{i}] (id {short(item.get('id'))}, image {short(item.get('image_id'))})"
        record, bbox = records.get(_hashable(item.get("image_id"))), item.get("bbox")
        if problems := _annotation_problems(item, record, contiguous):
            findings += [Finding(kind, where, message) for kind, message in problems]
            continue
        width, height = record["width"], record["height"]
        boxes.append((bbox, width, height))
        class_id, crowd = contiguous[item["category_id"]], int(bool(item.get("iscrowd", 0)))
        reason = degenerate_reason(bbox, width, height)
        if reason is not None:
            findings.append(Finding(_KIND_OF_REASON[reason], where, f"bbox {bbox}: {reason}"))
            dropped[reason] += 1
            continue
        others = classes_of_box[(record["image_id"], *bbox, crowd)]
        if class_id in others:
            findings.append(Finding("duplicate-box", where, f"bbox {bbox} for the second time"))
            dropped["repeated on its image"] += 1
            continue
        if others:
            findings.append(Finding("conflicting-box", where, f"bbox {bbox} has another class as well"))
        others.add(class_id)
        if overhang(bbox, width, height) > PIXEL_TOLERANCE:
            findings.append(Finding("box-partly-outside", where, f"bbox {bbox} on an image of {width} x {height}"))
        record["annotations"].append(
            {
                "bbox": [float(v) for v in bbox],
                "bbox_mode": BoxMode.XYWH_ABS,
                "category_id": class_id,
                "iscrowd": crowd,
            }
        )
        area = item["area"] if _is_area(item.get("area")) else bbox[2] * bbox[3]
        areas[record["image_id"]].append(float(area))
    if problem := wrong_convention(boxes):
        findings.append(Finding("wrong-convention", "annotations", problem))
    return areas, dropped, _needed_repairs(items, dropped, findings)


def _annotation_problems(
    item: dict[str, Any], record: dict[str, Any] | None, contiguous: dict[int, int]
) -> list[tuple[str, str]]:
    problems, bbox = [], item.get("bbox")
    if record is None:
        problems.append(("unknown-image", f"unknown image id {short(item.get('image_id'))}"))
    if _hashable(item.get("category_id")) not in contiguous:
        known = ", ".join(map(str, list(contiguous)[:20]))
        message = f"unknown category id {short(item.get('category_id'))}; the file defines {known}"
        problems.append(("unknown-class", message))
    if not isinstance(bbox, list) or len(bbox) != 4 or not all(map(_is_number, bbox)):
        problems.append(("malformed-box", f"bbox {short(bbox)} is not [x, y, width, height]"))
    return problems


def _is_number(value: object) -> bool:
    return isinstance(value, float) or is_int(value)


def _is_area(value: object) -> bool:
    return _is_number(value) and math.isfinite(value)


def _hashable(value: object) -> object:
    """Ids of a wrong type look up as unknown instead of raising, and True does not pass for 1."""
    return value if is_int(value) else None


def _needed_repairs(items: list[dict[str, Any]], dropped: Counter[str], findings: list[Finding]) -> tuple[str, ...]:
    ids = [item.get("id") for item in items]
    repairs = {}
    if not all(is_int(i) and i > 0 for i in ids):
        repairs["annotation ids that are missing or not positive"] = "bad-annotation-id"
    elif len(set(ids)) != len(ids):
        repairs["repeated annotation ids"] = "bad-annotation-id"
    if not all(_is_area(item.get("area")) for item in items):
        repairs["missing areas"] = "missing-fields"
    if not all(item.get("iscrowd") in (0, 1) for item in items):
        repairs["missing crowd flags"] = "missing-fields"
    findings += [Finding(kind, "annotations", f"the file has {text}") for text, kind in repairs.items()]
    return (*repairs, "degenerate or repeated boxes") if dropped else tuple(repairs)
