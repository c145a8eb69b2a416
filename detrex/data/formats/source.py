"""What the readers of all formats return: COCO content per split, with the place that each record came from."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from detrex.data.checks.findings import Finding
from detrex.data.checks.images import ImageFault, read_headers

from .coco_json import FILE_FACTS, WHERE

SPLIT_NAMES = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}


@dataclass(frozen=True)
class SplitSource:
    """One split before its records are checked.

    Attributes:
        file: annotation file, or folder of them, for messages.
        image_root: folder that file names are relative to.
        limit: folder that no file name may leave; None permits that.
        content: lists "images", "annotations" and "categories" in COCO's form.
        is_coco_file: whether ``file`` is a json with exactly this content.
    """

    file: str
    image_root: str
    limit: str | None
    content: dict[str, list[dict[str, Any]]] = field(repr=False)
    is_coco_file: bool = False


@dataclass(frozen=True)
class DataSource:
    """A data set as it was found.

    Attributes:
        root: its folder; of one that is given by its files, that of the training images.
        format: "COCO json", "YOLO", "Pascal VOC xml" or "labelme json".
        splits: "train", "val" and "test" -> content; those that there are.
        findings: what the reader could not convert.
        notes: decisions of the reader that a person should know, as sentences.
        made_split: how "val" was taken out of "train" (``split.split_off_val``); None where the data set has one.
    """

    root: str
    format: str
    splits: dict[str, SplitSource]
    findings: tuple[Finding, ...] = field(default=(), repr=False)
    notes: tuple[str, ...] = ()
    made_split: dict[str, Any] | None = field(default=None, repr=False)


def image_entries(files: Sequence[str], root: str, split: str, findings: list[Finding]) -> dict[str, dict[str, Any]]:
    """Path -> COCO image entry with id and size from the file's header; files that are no images become findings."""
    entries = {}
    for path, facts in zip(files, read_headers(list(files)), strict=True):
        name = os.path.relpath(path, root)
        if isinstance(facts, ImageFault):
            findings.append(Finding(facts.kind, name, str(facts), split))
            continue
        entries[path] = {
            "id": len(entries) + 1,
            "file_name": name,
            "width": facts.width,
            "height": facts.height,
            WHERE: name,
            FILE_FACTS: facts,
        }
    return entries


def annotation_entry(image_id: int, category_id: int, xywh: list[float], where: str, number: int) -> dict[str, Any]:
    """COCO annotation of a box, (x, y, width, height) in pixels."""
    return {
        "id": number,
        "image_id": image_id,
        "category_id": category_id,
        "bbox": xywh,
        "area": xywh[2] * xywh[3],
        "iscrowd": 0,
        WHERE: where,
    }
