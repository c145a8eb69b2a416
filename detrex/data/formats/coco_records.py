"""Categories and images of a COCO json, checked one by one; what is wrong is collected as findings.

An item may carry ``WHERE``, the place in another format's file that it was converted from, which findings then name.
"""

from __future__ import annotations

import os
from typing import Any

from detrex.data.checks.findings import Finding
from detrex.data.checks.images import ImageFacts
from detrex.data.checks.paths import FileListing, is_inside
from detrex.utils.text import short

WHERE = object()  # no json has such keys
FILE_FACTS = object()  # ImageFacts of an image whose header a reader has seen


def is_int(value: object) -> bool:
    """Whether an id is an integer that pycocotools and torch can hold; True is none."""
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63


def check_categories(items: list[dict[str, Any]], findings: list[Finding]) -> dict[int, str]:
    """Category id -> name, ascending by id."""
    names: dict[int, str] = {}
    for i, item in enumerate(items):
        category_id, name = item.get("id"), item.get("name")
        if not is_int(category_id):
            problem = f"id {short(category_id)} is not an integer of 64 bits"
        elif category_id in names:
            problem = f"duplicate category id {category_id} ({short(names[category_id])}, {short(name)})"
        elif not isinstance(name, str) or not name.strip():
            problem = f"category {category_id} has no name"
        elif name in names.values():
            problem = f"the name {short(name)} is used by two categories"
        else:
            names[category_id] = name
            continue
        findings.append(Finding("bad-classes", item.get(WHERE) or f"categories[{i}]", problem))
    spelling: dict[str, str] = {}
    for name in names.values():
        first = spelling.setdefault("".join(name.casefold().split()), name)
        if first != name:
            findings.append(Finding("similar-classes", "categories", f"{short(first)} and {short(name)}"))
    return dict(sorted(names.items()))


def check_images(
    items: list[dict[str, Any]], image_root: str, limit: str | None, findings: list[Finding]
) -> tuple[dict[int, dict[str, Any]], set[int]]:
    """Image id -> record without annotations, and the ids among them that cannot be used.

    Args:
        items: the list "images".
        image_root: folder that file names are relative to.
        limit: folder that no file name may leave; None lets them.
        findings: what is wrong is appended.
    """
    records: dict[int, dict[str, Any]] = {}
    bad: set[int] = set()
    listing = FileListing()
    for i, item in enumerate(items):
        image_id, name, size = item.get("id"), item.get("file_name"), (item.get("height"), item.get("width"))
        where = item.get(WHERE) or f"images[{i}] ({short(name)})"
        if not is_int(image_id):
            findings.append(Finding("bad-image-record", where, f"id {short(image_id)} is not an integer of 64 bits"))
            continue
        if image_id in records:
            first = os.path.relpath(records[image_id]["file_name"], image_root)
            message = f"duplicate image id {image_id} ({short(first)}, {short(name)})"
            findings.append(Finding("duplicate-image-id", where, message))
            bad.add(image_id)
            continue
        problems = _image_problems(image_id, name, size, item.get(FILE_FACTS), image_root, limit, listing)
        if problems:
            bad.add(image_id)
            findings += [Finding(kind, where, message) for kind, message in problems]
        usable_size = all(is_int(v) and v > 0 for v in size)
        records[image_id] = {
            "file_name": os.path.join(image_root, name if isinstance(name, str) else ""),
            "height": size[0] if usable_size else 1,
            "width": size[1] if usable_size else 1,
            "image_id": image_id,
            "annotations": [],
        }
    return records, bad


def _image_problems(
    image_id: int, name: Any, size: tuple, facts: ImageFacts | None, root: str, limit: str | None, listing: FileListing
) -> list[tuple[str, str]]:
    problems = []
    if not isinstance(name, str) or not name:
        problems.append(("bad-image-record", f"image {image_id} has no file_name"))
    elif limit is not None and not is_inside(os.path.join(root, name), limit):
        message = f"image {image_id} is outside {limit}; dataloader.data.allow_outside=True permits it"
        problems.append(("outside-root", message))
    elif not listing.has(path := os.path.join(root, name)):
        hint = "the name has backslashes" if "\\" in name else "check dataloader.data.image_root"
        problems.append(("missing-image", f"image {image_id}: no file {path}; {hint}"))
    if not all(is_int(v) and v > 0 for v in size):
        shown = f"({short(size[0])}, {short(size[1])})"
        problems.append(("bad-image-record", f"image {image_id}: height, width = {shown} are not positive integers"))
    elif facts is not None:
        problems += size_problems(facts, width=size[1], height=size[0])
    return problems


def size_problems(facts: ImageFacts, *, width: int, height: int) -> list[tuple[str, str]]:
    """(kind, message) where a file contradicts the size that its annotation states."""
    if (width, height) == (facts.width, facts.height):
        return []
    if (width, height) == facts.stored_size:
        message = f"EXIF orientation {facts.orientation} turns the image, the annotation is of the view before that"
        return [("exif-mismatch", message)]
    message = f"the image is {facts.width} x {facts.height}, its annotation says {width} x {height} (width x height)"
    return [("wrong-size", message)]
