"""A cleaned copy of a data set, in COCO format; the original is read and never written."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from typing import Any

from detrex.data.checks.findings import KINDS, DatasetError
from detrex.data.checks.images import ImageFacts
from detrex.data.checks.paths import is_inside
from detrex.data.formats.coco_json import as_int, write_json
from detrex.utils.text import short

from .dataset_check import CheckedFiles

Box = tuple[float, float, float, float]


def write_fixed_copy(files: CheckedFiles, output: str | os.PathLike[str]) -> str:
    """Copy what can be trained on into ``output``: the images, and ``annotations/instances_<split>.json``.

    Image files are copied byte by byte and keep their paths within the data set; ``findings.KINDS`` says what becomes
    of each kind of damage. Boxes are clipped to their images. The folder appears at the end, complete.

    Args:
        files: the checked data set.
        output: folder that must not exist yet and must not lie within the data set's.

    Returns:
        Path of the copy.

    Raises:
        DatasetError: ``output`` exists or lies within the data set; a finding that only a person can mend; nothing
            is left of a split, or no box of a class that had some.
    """
    target, root = os.path.abspath(output), os.path.abspath(files.checked.source.root)
    if os.path.lexists(target):
        raise DatasetError(f"{target} exists already; give --fix a new folder")
    folders = {root, *(os.path.abspath(s.image_root) for s in files.checked.source.splits.values())}
    if any(is_inside(target, folder) for folder in folders):
        raise DatasetError(f"{target} lies within the data set, which is not written to; choose a folder outside")
    stuck = [f for f in files.checked.findings if f.is_error and KINDS[f.kind].fix is None and f.kind != "empty-split"]
    if stuck:
        raise DatasetError(f"--fix cannot mend this: {stuck[0]}", stuck)
    temporary = f"{target}.{os.getpid()}.tmp"
    try:
        left: dict[str, Counter[int]] = {}
        for split in files.checked.splits:
            content = _copy_split(files, split, root, temporary)
            left[split] = Counter(a["category_id"] for a in content["annotations"])
            if split != "test" and all(a["iscrowd"] for a in content["annotations"]):
                raise DatasetError.of("empty-split", split, "no image with boxes is left")
            if not content["images"]:
                continue
            write_json(content, os.path.join(temporary, "annotations", f"instances_{split}.json"))
        _refuse_lost_classes(files, left)
        os.rename(temporary, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return target


def _refuse_lost_classes(files: CheckedFiles, left: dict[str, Counter[int]]) -> None:
    """A class that is to disappear from the training data, or from all, is a person's decision."""
    before = {
        split: Counter(as_int(a.get("category_id")) for a in source.content.get("annotations", ()))
        for split, source in files.checked.source.splits.items()
    }
    for splits in (["train"], list(before)):
        for category_id, name in _classes(files).items():
            count = sum(before[s][category_id] for s in splits if s in before)
            if count and not any(left[s][category_id] for s in splits if s in left):
                where = "the training split" if splits == ["train"] else "the data set"
                boxes = "its only box" if count == 1 else f"all of its {count} boxes"
                raise DatasetError.of("unused-class", where, f"--fix would leave out {boxes} of class {short(name)}; "
                                      "mend some of them, or remove the class from the annotations")  # fmt: skip


def _classes(files: CheckedFiles) -> dict[int, str]:
    return {i: n for d in files.checked.splits.values() for i, n in zip(d.category_ids, d.class_names, strict=True)}


def _copy_split(files: CheckedFiles, split: str, root: str, target: str) -> dict[str, list[dict[str, Any]]]:
    """Copy the usable images of a split; returns its COCO content."""
    data, facts = files.checked.splits[split], files.facts[split]
    images, annotations = [], []
    for record in data.records:
        image_id = record["image_id"]
        if image_id not in facts or image_id in files.redundant[split]:
            continue
        fact = facts[image_id]
        name = _name_in_copy(record["file_name"], root, split, image_id)
        path = os.path.join(target, name)
        if not os.path.exists(path):
            os.makedirs(os.path.dirname(path), exist_ok=True)
            shutil.copyfile(record["file_name"], path)
        images.append({"id": image_id, "file_name": name, "width": fact.width, "height": fact.height})
        turned = (record["width"], record["height"]) != (fact.width, fact.height)
        for annotation in record["annotations"]:
            box = _upright_box(annotation["bbox"], fact) if turned else tuple(annotation["bbox"])
            x, y, w, h = _clip(box, fact)
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": data.category_ids[annotation["category_id"]],
                    "bbox": [x, y, w, h],
                    "area": w * h,
                    "iscrowd": annotation["iscrowd"],
                }
            )
    names = zip(data.category_ids, data.class_names, strict=True)
    categories = [{"id": category_id, "name": name} for category_id, name in names]
    return {"images": images, "annotations": annotations, "categories": categories}


def _name_in_copy(path: str, root: str, split: str, image_id: int) -> str:
    """The path below the data set's folder; a file from elsewhere gets a folder and a number of its own."""
    path = os.path.abspath(path)
    if is_inside(path, root):
        return os.path.relpath(path, root)
    return os.path.join("outside", f"{split}_{image_id}_{os.path.basename(path)}")


def _clip(box: Box, fact: ImageFacts) -> Box:
    x, y, w, h = box
    left, top = max(x, 0.0), max(y, 0.0)
    return left, top, min(x + w, fact.width) - left, min(y + h, fact.height) - top


def _upright_box(box: list[float], fact: ImageFacts) -> Box:
    """(x, y, w, h) of a box in the stored picture, moved with the picture as EXIF orientation 5, 6, 7 or 8 turns it.

    All four exchange the axes; 6 and 7 then mirror left to right, 7 and 8 top to bottom (EXIF 2.3, table 6).
    """
    y, x, h, w = box
    if fact.orientation in (6, 7):
        x = fact.width - x - w
    if fact.orientation in (7, 8):
        y = fact.height - y - h
    return x, y, w, h
