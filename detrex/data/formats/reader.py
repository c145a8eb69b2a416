"""From ``dataloader.data`` of a config to the content of its splits, whatever their format."""

from __future__ import annotations

import dataclasses
import os
from typing import Any

from omegaconf import DictConfig

from detrex.data.checks.findings import DatasetError

from .coco_folder import find_jsons, read_coco_folder
from .coco_json import load_content
from .source import DataSource, SplitSource
from .split import split_off_val
from .voc import find_xml_folders, read_voc
from .yolo import find_yaml, read_yolo

FORMATS = ("coco", "yolo", "voc")
PATH_KEYS = ("image_root", "train_json", "val_json")


def open_data(node: DictConfig, *, train: bool = True) -> DataSource:
    """Read the annotation files of a data set, without checking its records.

    Args:
        node: ``dataloader.data`` of ``configs/common/data/custom.py``.
        train: False does without the training split, where there is one to validate.

    Raises:
        DatasetError: settings that are missing or contradict each other; a folder in which no data set, or more than
            one, is recognised; an annotation file that cannot be read.
    """
    if not node.get("root"):
        return _open_jsons(node, train=train)
    given = [key for key in (*PATH_KEYS, "val_image_root") if node.get(key)]
    if given:
        raise DatasetError(
            f"dataloader.data.root and dataloader.data.{given[0]} are both set; give the folder, or the files "
            f"({', '.join(PATH_KEYS)})"
        )
    source = open_folder(_path(node, "root"), format=node.get("format"), allow_outside=bool(node.get("allow_outside")))
    if "train" not in source.splits and (train or "val" not in source.splits):
        found = ", ".join(source.splits) or "nothing"
        reasons = [f.message for f in source.findings if f.kind == "missing-split"]
        message = "; ".join([f"{source.format}: no training images, only {found}", *reasons])
        raise DatasetError.of("empty-split", source.root, message)
    if "val" in source.splits:
        return source
    train_part, val_part, record = split_off_val(
        source.splits["train"], fraction=float(node.val_fraction), seed=int(node.split_seed)
    )
    splits = {**source.splits, "train": train_part, "val": val_part}
    return dataclasses.replace(source, splits=splits, made_split=record)


def open_folder(root: str, *, format: str | None = None, allow_outside: bool = False) -> DataSource:
    """Read a data set of any format from its folder.

    Args:
        root: the folder.
        format: "coco", "yolo" or "voc"; None recognises it.
        allow_outside: whether paths in annotation files may leave ``root``.

    Raises:
        DatasetError: as ``open_data``.
    """
    root = os.path.abspath(root)
    if not os.path.isdir(root):
        what = "is a file; unpack it and give the folder" if os.path.isfile(root) else "no such folder"
        raise DatasetError.of("unknown-format", root, what)
    if format is not None and format not in FORMATS:
        raise DatasetError(f"dataloader.data.format={format!r}; give one of {', '.join(FORMATS)}, or nothing")
    found: dict[str, Any] = {"yolo": find_yaml(root), "coco": find_jsons(root), "voc": find_xml_folders(root)}
    formats = [name for name in FORMATS if found[name] and format in (None, name)]
    if len(formats) != 1:
        raise DatasetError.of("unknown-format", root, _not_recognised(root, formats))
    match formats[0]:
        case "coco":
            source = read_coco_folder(root, found["coco"], allow_outside=allow_outside)
        case "yolo":
            source = read_yolo(root, found["yolo"], allow_outside=allow_outside)
        case _:
            source = read_voc(root, found["voc"], allow_outside=allow_outside)
    return source


def _open_jsons(node: DictConfig, *, train: bool) -> DataSource:
    image_root, val_json = _path(node, "image_root"), _path(node, "val_json")
    val_root = os.path.expanduser(str(node.get("val_image_root") or image_root))
    splits = {"train": (_path(node, "train_json"), image_root)} if train else {}
    splits["val"] = (val_json, val_root)
    allow_outside = bool(node.get("allow_outside"))
    sources = {
        name: SplitSource(path, root, None if allow_outside else root, load_content(path), is_coco_file=True)
        for name, (path, root) in splits.items()
    }
    return DataSource(os.path.abspath(image_root), "COCO json", sources)


def _path(node: DictConfig, key: str) -> str:
    value = node.get(key)
    if not value:
        alternative = "" if any(node.get(k) for k in PATH_KEYS) else ", or dataloader.data.root=FOLDER,"
        raise DatasetError(
            f"dataloader.data.{key} is not set: add dataloader.data.{key}=PATH{alternative} to the command"
        )
    return os.path.expanduser(str(value))


def _not_recognised(root: str, formats: list[str]) -> str:
    if formats:
        return f"holds {' and '.join(formats)} annotations; choose with dataloader.data.format={formats[0]}"
    inner = [
        entry.path
        for entry in sorted(os.scandir(root), key=lambda e: e.name)
        if entry.is_dir() and (find_yaml(entry.path) or find_jsons(entry.path) or find_xml_folders(entry.path))
    ]
    hint = f"; did you mean {inner[0]}?" if inner else ""
    return (
        "no data set recognised: looked for COCO (annotations/*.json, train/_annotations.coco.json, *.json), YOLO "
        f"(data.yaml) and Pascal VOC (Annotations/*.xml, train/*.xml, *.xml){hint}"
    )
