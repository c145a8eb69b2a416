"""Reading a COCO-format json strictly: what cannot be trained on is an error that names the file and the record.

detectron2's own reader stops at the first bad record with an assertion, or reads on; and evaluation with pycocotools
goes silently wrong on annotation ids that start at 0 (it marks "unmatched" by 0) or that repeat. Here every record is
checked before anything is built, harmless flaws are repaired and counted, and the rest is reported together.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .coco_records import attach_annotations, check_categories, check_images

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
    categories = check_categories(content["categories"], problems)
    records = check_images(content["images"], os.fspath(image_root), problems)
    contiguous = {category_id: i for i, category_id in enumerate(categories)}
    areas, dropped, repairs = attach_annotations(content["annotations"], records, contiguous, problems)
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


def _summary(path: str, problems: Sequence[str]) -> str:
    lines = [f"{path}: {len(problems)} problem(s)", *(f"  {p}" for p in problems[:MAX_REPORTED])]
    if len(problems) > MAX_REPORTED:
        lines.append(f"  ... and {len(problems) - MAX_REPORTED} more")
    return "\n".join(lines)
