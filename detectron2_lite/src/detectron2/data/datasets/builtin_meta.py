"""COCO's classes: ids, names and the colours of the panoptic API."""

import csv
from pathlib import Path
from typing import Any

with Path(__file__).with_name("coco_categories.csv").open(encoding="utf-8") as _table:  # colours as hexadecimal RGB
    COCO_CATEGORIES = [
        {
            "color": list(bytes.fromhex(row["color"])),
            "isthing": int(int(row["id"]) <= 90),  # the others are stuff
            "id": int(row["id"]),
            "name": row["name"],
        }
        for row in csv.DictReader(_table)
    ]


def _get_builtin_metadata(dataset_name: str) -> dict[str, Any]:
    """Metadata of the 80 object classes, for ``dataset_name`` = "coco"; KeyError otherwise."""
    if dataset_name != "coco":
        raise KeyError(f"No built-in metadata for {dataset_name!r}, only for 'coco'")
    things = [category for category in COCO_CATEGORIES if category["isthing"]]
    return {
        "thing_dataset_id_to_contiguous_id": {category["id"]: i for i, category in enumerate(things)},
        "thing_classes": [category["name"] for category in things],
        "thing_colors": [category["color"] for category in things],
    }
