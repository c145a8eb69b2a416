"""COCO-format data sets as they lie on a disk: the json of each split, and the folder of its images."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Callable, Sequence
from typing import Any

from detrex.data.checks.findings import DatasetError, Finding, raise_errors
from detrex.data.checks.paths import FileListing, list_folder, rewritings
from detrex.utils.text import short

from .coco_json import OUTLINE, CocoData, as_int, check_content, load_content
from .labelme import has_labelme
from .source import SPLIT_NAMES, DataSource, SplitSource

ROBOFLOW_NAME = "_annotations.coco.json"
NOT_COCO = ("notes.json",)  # Label Studio's, beside YOLO labels
FOLDERS = ("annotations", "")
IMAGE_FOLDERS = ("images", "data", "")
SAMPLE = 50  # file names that decide which folder holds the images
# "train" in instances_train2017.json, but not in trainval.json
_SPLIT_IN_NAME = re.compile(rf"(?:^|[^a-z])({'|'.join(SPLIT_NAMES)})(?:20\d\d)?(?=$|[^a-z0-9])")


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
    path, root = os.fspath(json_file), os.fspath(image_root)
    content, _, _ = locate_images(load_content(path), [root])
    data = check_content(content, json_file=path, image_root=root, limit=limit)
    raise_errors(path, data.findings)
    return data


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
        DatasetError: a json that cannot be read or has no images or classes. A test json that cannot be read is left
            alone; it needs no annotations, and takes the classes of the training json where it has none.
    """
    limit = None if allow_outside else root
    return read_coco_files(root, {s: (path, _image_folders(root, s, path), limit) for s, path in jsons.items()})


def read_coco_files(root: str, files: dict[str, tuple[str, Sequence[str], str | None]]) -> DataSource:
    """Read a COCO json for each split.

    Args:
        root: folder of the data set.
        files: split -> (json, folders that may hold its images, the likeliest first, folder that no file name may
            leave or None).

    Raises:
        DatasetError: as ``read_coco_folder``.
    """
    splits, notes = {}, []
    for split, (path, folders, limit) in sorted(files.items(), key=lambda item: item[0] == "test"):
        try:
            content = loaded = load_content(path, required=OUTLINE[:1] if split == "test" else OUTLINE)
        except DatasetError as e:
            if split != "test":
                raise
            notes.append(f"the test split is left alone: {e}")
            continue
        if "categories" not in content:
            if "train" not in splits:
                notes.append(f'the test split is left alone: {path} has no list "categories"')
                continue
            content = {**content, "categories": splits["train"].content["categories"]}
        if "annotations" not in content:
            notes.append(f"{path} has no annotations: it can be predicted on, and not be evaluated")
        content, image_root, note = locate_images(content, folders)
        notes += [note] if note else []
        splits[split] = SplitSource(path, image_root, limit, content, is_coco_file=content is loaded)
    findings = _drop_group_class(splits)
    return DataSource(root, "COCO json", splits, tuple(findings), tuple(notes))


def _jsons(folder: str) -> list[str]:
    paths = [os.path.join(folder, n) for n in list_folder(folder, (".json",)) if n.lower() not in NOT_COCO]
    return [] if has_labelme(folder) else paths


def _by_name(jsons: list[str]) -> dict[str, str]:
    candidates: dict[str, list[str]] = {}
    for path in jsons:
        match = _SPLIT_IN_NAME.search(os.path.splitext(os.path.basename(path))[0].lower())
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


def _image_folders(root: str, split: str, json_file: str) -> list[str]:
    """Folders that may hold a split's images; the json's own comes first."""
    stem = os.path.splitext(os.path.basename(json_file))[0].removeprefix("instances_")
    folders = [stem, *(name for name, s in SPLIT_NAMES.items() if s == split), ""]
    own = os.path.dirname(json_file)
    candidates = [own, *(os.path.join(own, name) for name in IMAGE_FOLDERS)]
    candidates += [os.path.join(root, parent, folder) for parent in IMAGE_FOLDERS for folder in folders]
    return list(dict.fromkeys(os.path.normpath(c) for c in candidates if os.path.isdir(c)))


def locate_images(content: dict[str, Any], folders: Sequence[str]) -> tuple[dict[str, Any], str, str | None]:
    """Find the folder that the images' file names are relative to.

    Where no name exists in any folder, the names are tried as another computer may have meant them
    (``checks.paths.rewritings``).

    Args:
        content: of ``load_content``.
        folders: candidates, the likeliest first.

    Returns:
        The content, with file names as they are on this disk; the folder; what was changed, as a sentence, or None.
    """
    names = [n for item in content["images"] if isinstance(n := item.get("file_name"), str)]
    listing = FileListing()
    for rewrite in rewritings(names):
        sample = [rewrite(n) for n in names[:: max(len(names) // SAMPLE, 1)]]
        found = {f: sum(listing.find(os.path.join(f, n)) is not None for n in sample) for f in folders}
        root = max(folders, key=lambda folder: found[folder])
        if found[root]:
            break
    else:
        return content, folders[0], None
    images = [_located(item, root, rewrite, listing) for item in content["images"]]
    changed = [(a["file_name"], b["file_name"]) for a, b in zip(content["images"], images, strict=True) if a is not b]
    if not changed:
        return content, root, None
    note = f"image file names are read as on this disk: {short(changed[0][0])} is {short(changed[0][1])} in {root}"
    return {**content, "images": images}, root, note


def _located(item: dict[str, Any], root: str, rewrite: Callable[[str], str], listing: FileListing) -> dict[str, Any]:
    name = item.get("file_name")
    if not isinstance(name, str):
        return item
    for meant in (rewrite(name), name.replace("\\", "/")):
        path = os.path.join(root, meant)
        if found := listing.find(path):
            actual = meant if found == path else os.path.relpath(found, root)
            return item if actual == name else {**item, "file_name": actual}
    return item


def _drop_group_class(splits: dict[str, SplitSource]) -> list[Finding]:
    """Leave out the first class of Roboflow's exports, which holds the others and no boxes.

    It has index and id 0 in every split; another class may have its name.
    """
    names = set()
    for source in splits.values():
        first, *others = source.content["categories"]
        name = first.get("name")
        used = any(as_int(a.get("category_id")) == 0 for a in source.content.get("annotations", ()))
        if used or as_int(first.get("id")) != 0 or first.get("supercategory") != "none" or not isinstance(name, str):
            return []
        if not others or any(c.get("supercategory") != name or as_int(c.get("id")) == 0 for c in others):
            return []
        names.add(name)
    if len(names) != 1:
        return []
    for split, source in splits.items():
        content = {**source.content, "categories": source.content["categories"][1:]}
        splits[split] = dataclasses.replace(source, content=content, is_coco_file=False)
    where = next(iter(splits.values())).file
    return [Finding("group-class", where, f"category 0 {short(names.pop())} has no boxes and groups all others")]
