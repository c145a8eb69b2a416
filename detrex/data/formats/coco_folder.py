"""Finding the parts of a COCO-format data set in its folder: the json of each split and the folder of its images."""

from __future__ import annotations

import dataclasses
import os
import re
from typing import Any

from detrex.data.checks.findings import DatasetError, Finding
from detrex.data.checks.paths import FileListing
from detrex.utils.text import short

from .coco_json import load_content
from .source import SPLIT_NAMES, DataSource, SplitSource

ROBOFLOW_NAME = "_annotations.coco.json"
FOLDERS = ("annotations", "")
IMAGE_FOLDERS = ("images", "")
SAMPLE = 50  # file names that decide which folder holds the images
# "train" in instances_train2017.json, but not in trainval.json
_SPLIT_IN_NAME = re.compile(rf"(?:^|[^a-z])({'|'.join(SPLIT_NAMES)})(?:20\d\d)?(?=$|[^a-z0-9])")


def find_jsons(root: str) -> dict[str, str]:
    """Split -> annotation file: in the splits' own folders, in annotations/, or in ``root``.

    Raises:
        DatasetError: two files that may be the same split's.
    """
    found = {}
    for folder, split in SPLIT_NAMES.items():
        jsons = _jsons(os.path.join(root, folder))
        if ROBOFLOW_NAME in map(os.path.basename, jsons):
            jsons = [os.path.join(root, folder, ROBOFLOW_NAME)]
        if len(jsons) == 1:
            found.setdefault(split, jsons[0])
    if "train" in found:
        return found
    for folder in FOLDERS:
        if jsons := _jsons(os.path.join(root, folder)):
            return _by_name(jsons)
    return {}


def read_coco_folder(root: str, jsons: dict[str, str], *, allow_outside: bool) -> DataSource:
    """Read the splits of a COCO-format folder.

    Args:
        root: folder of the data set.
        jsons: of ``find_jsons``.
        allow_outside: whether file names may leave ``root``.

    Raises:
        DatasetError: a json that cannot be read or has no images or classes. A test json without boxes is left alone.
    """
    splits, notes = {}, []
    limit = None if allow_outside else root
    for split, path in jsons.items():
        try:
            content = load_content(path)
        except DatasetError as e:
            if split != "test":
                raise
            notes.append(f"the test split is left alone: {e}")
            continue
        image_root = _image_root(root, split, path, content["images"])
        splits[split] = SplitSource(path, image_root, limit, content, is_coco_file=True)
    findings = _drop_group_class(splits)
    return DataSource(root, "COCO json", splits, tuple(findings), tuple(notes))


def _jsons(folder: str) -> list[str]:
    if not os.path.isdir(folder):
        return []
    return [os.path.join(folder, n) for n in sorted(os.listdir(folder)) if n.endswith(".json")]


def _by_name(jsons: list[str]) -> dict[str, str]:
    candidates: dict[str, list[str]] = {}
    for path in jsons:
        match = _SPLIT_IN_NAME.search(os.path.basename(path).removesuffix(".json").lower())
        if match:
            candidates.setdefault(SPLIT_NAMES[match[1]], []).append(path)
    if not candidates and len(jsons) == 1:
        return {"train": jsons[0]}
    chosen = {}
    for split, paths in candidates.items():
        instances = [p for p in paths if os.path.basename(p).startswith("instances_")] or paths
        if len(instances) > 1:
            names = ", ".join(os.path.basename(p) for p in paths)
            message = f"{names} may all be the {split} split; give dataloader.data.train_json, val_json and image_root"
            raise DatasetError.of("unknown-format", os.path.dirname(paths[0]), message)
        chosen[split] = instances[0]
    return chosen


def _image_root(root: str, split: str, json_file: str, images: list[dict[str, Any]]) -> str:
    """The folder in which most of the images' file names exist; the json's own comes first."""
    names = [i["file_name"] for i in images[:SAMPLE] if isinstance(i.get("file_name"), str)]
    stem = os.path.basename(json_file).removesuffix(".json").removeprefix("instances_")
    folders = [stem, *(name for name, s in SPLIT_NAMES.items() if s == split)]
    candidates = [os.path.dirname(json_file)]
    for parent in IMAGE_FOLDERS:
        candidates += [os.path.join(root, parent, folder) for folder in (*folders, "")]
    listing = FileListing()
    existing = [os.path.normpath(c) for c in candidates if os.path.isdir(c)]
    return max(existing, key=lambda folder: sum(listing.has(os.path.join(folder, name)) for name in names))


def _drop_group_class(splits: dict[str, SplitSource]) -> list[Finding]:
    """Leave out the first class of Roboflow's exports, which holds the others and no boxes."""
    categories = [c for s in splits.values() for c in s.content["categories"]]
    used = {short(a.get("category_id")) for s in splits.values() for a in s.content["annotations"]}
    groups = {
        (short(c.get("id")), c.get("name"))
        for c in categories
        if c.get("supercategory") == "none" and short(c.get("id")) not in used and isinstance(c.get("name"), str)
    }
    groups = {
        (category_id, name)
        for category_id, name in groups
        if all(c.get("supercategory") == name for c in categories if c.get("name") != name)
        and any(c.get("name") != name for c in categories)
    }
    if len(groups) != 1:
        return []
    category_id, name = groups.pop()
    for split, source in splits.items():
        kept = [c for c in source.content["categories"] if c.get("name") != name]
        content = {**source.content, "categories": kept}
        splits[split] = dataclasses.replace(source, content=content, is_coco_file=False)
    where = next(iter(splits.values())).file
    return [Finding("group-class", where, f"category {category_id} {short(name)} has no boxes and groups all others")]
