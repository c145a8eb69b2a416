"""Reading a COCO-format json strictly: what cannot be trained on is an error that names the file and the record.

detectron2's own reader stops at the first bad record with an assertion, or reads on; and evaluation with pycocotools
goes silently wrong on annotation ids that start at 0 (it marks "unmatched" by 0) or that repeat. Here every record is
checked before anything is built, harmless flaws are repaired and counted, and the rest is reported together.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from detrex.data.checks.findings import DatasetError, Finding, raise_errors
from detrex.utils.text import short

from .coco_annotations import attach_annotations
from .coco_records import check_categories, check_images


@dataclass(frozen=True)
class CocoData:
    """A checked COCO-format data set.

    Attributes:
        json_file: path that was read; of another format, the folder or file that stands for it.
        category_ids: ids as in the file, ascending; position in this tuple is the contiguous class id.
        class_names: names in the same order.
        records: detectron2's standard dicts (file_name, height, width, image_id, annotations with contiguous
            ``category_id`` and XYWH_ABS boxes in pixels), ordered by image id; images that cannot be used, degenerate
            and repeated boxes are left out.
        dropped: reason -> number of boxes left out of ``records``.
        repairs: what an evaluation against the file as it stands would get wrong; empty for a clean file.
        areas: COCO areas (square pixels) of the kept annotations, one list per record.
        findings: what is wrong, record by record.
    """

    json_file: str
    category_ids: tuple[int, ...]
    class_names: tuple[str, ...]
    records: list[dict[str, Any]] = field(repr=False)
    dropped: Mapping[str, int]
    repairs: tuple[str, ...]
    areas: list[list[float]] = field(repr=False)
    findings: tuple[Finding, ...] = field(repr=False)

    @property
    def max_objects(self) -> int:
        """Largest number of non-crowd objects on one image."""
        return max(map(count_objects, self.records), default=0)

    def count_per_class(self) -> list[int]:
        """Number of non-crowd boxes of each class, in the order of ``class_names``."""
        counts = Counter(a["category_id"] for r in self.records for a in r["annotations"] if not a["iscrowd"])
        return [counts[i] for i in range(len(self.class_names))]


def count_objects(record: dict[str, Any]) -> int:
    """Number of non-crowd objects on the image of a record."""
    return sum(not a["iscrowd"] for a in record["annotations"])


def read_coco_json(
    json_file: str | os.PathLike[str], image_root: str | os.PathLike[str], *, limit: str | None = None
) -> CocoData:
    """Read a COCO-format detection json that can be trained on.

    Args:
        json_file: path of the json.
        image_root: folder that the images' ``file_name`` is relative to.
        limit: folder that no ``file_name`` may leave; None lets them.

    Raises:
        DatasetError: file missing or not json; duplicate or non-integer ids; unnamed or repeated categories; an
            annotation with an unknown category or image, or without a box of four numbers; a missing image file; a
            file outside ``limit``; boxes that follow another format's convention.
    """
    path = os.fspath(json_file)
    data = check_content(load_content(path), json_file=path, image_root=os.fspath(image_root), limit=limit)
    raise_errors(path, data.findings)
    return data


def check_content(content: dict[str, Any], *, json_file: str, image_root: str, limit: str | None) -> CocoData:
    """Check COCO-format content; what cannot be used is left out and stands in ``findings``.

    Args:
        content: lists "images", "annotations" and "categories" of dicts, as ``load_content`` returns it.
        json_file: what the content was read from, for messages.
        image_root: folder that the images' ``file_name`` is relative to.
        limit: folder that no ``file_name`` may leave; None lets them.
    """
    findings: list[Finding] = []
    categories = check_categories(content["categories"], findings)
    records, bad = check_images(content["images"], image_root, limit, findings)
    contiguous = {category_id: i for i, category_id in enumerate(categories)}
    areas, dropped, repairs = attach_annotations(content["annotations"], records, contiguous, findings)
    order = sorted(set(records) - bad)
    return CocoData(
        json_file=json_file,
        category_ids=tuple(categories),
        class_names=tuple(categories.values()),
        records=[records[i] for i in order],
        dropped=dropped,
        repairs=repairs,
        areas=[areas[i] for i in order],
        findings=tuple(findings),
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
    write_json(content, path)


def write_json(content: Any, path: str | os.PathLike[str]) -> None:
    """Write a json whole or not at all; its folder is created."""
    target = os.fspath(path)
    os.makedirs(os.path.dirname(target) or ".", exist_ok=True)
    temporary = f"{target}.{os.getpid()}.tmp"
    with open(temporary, "w", encoding="utf-8") as f:
        json.dump(content, f)
    os.replace(temporary, target)


def load_content(path: str) -> dict[str, Any]:
    """Parse a json and check its outline: non-empty lists of objects "images" and "categories", and "annotations".

    Raises:
        DatasetError: there is no such file, or it is something else.
    """
    try:
        with open(path, encoding="utf-8-sig") as f:
            content = json.load(f)
    except FileNotFoundError:
        raise _unreadable(path, "no such file; give the path of a COCO-format json") from None
    except (OSError, ValueError, RecursionError) as e:  # ValueError: no UTF-8, no json, numbers of 4,300 digits
        raise _unreadable(path, f"cannot be read as json: {e}") from e
    for key in ("images", "annotations", "categories"):
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            raise _unreadable(path, f'no list "{key}" at the top level; a COCO detection json has images, '
                              "annotations and categories")  # fmt: skip
        bad = next((i for i, item in enumerate(content[key]) if not isinstance(item, dict)), None)
        if bad is not None:
            raise _unreadable(path, f"{key}[{bad}] is not an object: {short(content[key][bad])}")
    for key, kind in (("images", "empty-split"), ("categories", "bad-classes")):
        if not content[key]:
            raise DatasetError.of(kind, path, f'the list "{key}" is empty')
    return content


def _unreadable(path: str, message: str) -> DatasetError:
    return DatasetError.of("unreadable-annotations", path, message)
