"""From ``dataloader.data`` of a config to the content of its splits, whatever their format."""

from __future__ import annotations

import dataclasses
import fnmatch
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig

from detrex.data.checks.findings import DatasetError, raise_errors
from detrex.data.checks.paths import list_folder
from detrex.utils.regular_files import raise_machine_fault

from .coco_folder import find_jsons, read_coco_files, read_coco_folder
from .labelme import find_labelme, read_labelme
from .source import DataSource
from .split import split_off_val
from .voc import find_xml_folders, read_voc
from .yolo import find_names, find_yaml, has_labels, read_yolo

Finder = Callable[[str], Any]  # folder -> where its annotations are, or a false value


@dataclass(frozen=True)
class Format:
    """How a format is recognized and read.

    Attributes:
        read: (folder, what a finder returned, keyword ``allow_outside``) -> the content of its splits.
        find: recognizes files that only this format has; None if it has no such files.
        find_weak: recognizes files that may also lie beside another format's. It is asked when no format is found.
    """

    read: Callable[..., DataSource]
    find: Finder | None = None
    find_weak: Finder | None = None

    def finders(self) -> list[Finder]:
        """All ways to recognize it."""
        return [find for find in (self.find, self.find_weak) if find is not None]


FORMATS: dict[str, Format] = {
    "coco": Format(read=read_coco_folder, find=find_jsons),
    "yolo": Format(read=read_yolo, find=find_yaml, find_weak=find_names),
    "voc": Format(read=read_voc, find=find_xml_folders),
    "labelme": Format(read=read_labelme, find_weak=find_labelme),
}
# Files of formats that are not read -> what to do
FOREIGN = {
    "samples.json": "FiftyOne's own format: export it with dataset_type=fiftyone.types.COCODetectionDataset",
    "*.csv": 'a table of boxes: export the data set as "COCO"',
    "*.tfrecord": 'TFRecord: export the data set as "COCO"',
}
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
    if not _uses_val(node, train):
        return source
    if "train" not in source.splits and (train or "val" not in source.splits):
        found = ", ".join(source.splits) or "nothing"
        reasons = [f.message for f in source.findings if f.kind in ("missing-split", "empty-split")]
        message = "; ".join([f"{source.format}: no training images, only {found}", *reasons])
        raise DatasetError.of("empty-split", source.root, message)
    if "val" in source.splits:
        return source
    fraction, seed = float(node.val_fraction), int(node.split_seed)
    try:
        train_part, val_part, record = split_off_val(source.splits["train"], fraction=fraction, seed=seed)
    except DatasetError:
        raise_errors(source.root, source.findings)  # why so few images could be read
        raise
    splits = {**source.splits, "train": train_part, "val": val_part}
    return dataclasses.replace(source, splits=splits, made_split=record)


def _uses_val(node: DictConfig, train: bool) -> bool:
    """Whether the validation split is evaluated or trained on, so that one is made where there is none."""
    trained = node.get("train_splits") or ("train",)
    return (node.get("eval_split") or "val") == "val" or (train and "val" in trained)


def open_folder(root: str, *, format: str | None = None, allow_outside: bool = False) -> DataSource:
    """Read a data set of any format from its folder.

    Args:
        root: the folder.
        format: one of ``FORMATS``; None recognises it.
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
    try:
        return _read_folder(root, format, allow_outside)
    except OSError as e:  # a folder that cannot be listed
        raise_machine_fault(e, root)
        raise DatasetError.of("unreadable-annotations", str(e.filename or root), f"cannot be read: {e}") from e


def _read_folder(root: str, format: str | None, allow_outside: bool) -> DataSource:
    formats = {name: entry for name, entry in FORMATS.items() if format in (None, name)}
    found = {name: where for name, entry in formats.items() if entry.find and (where := entry.find(root))}
    if not found:
        weak = {name: entry.find_weak for name, entry in formats.items() if entry.find_weak}
        found = {name: where for name, find in weak.items() if (where := find(root))}
    if len(found) != 1:
        raise DatasetError.of("unknown-format", root, _not_recognised(root, list(found)))
    ((name, where),) = found.items()
    return FORMATS[name].read(root, where, allow_outside=allow_outside)


def _open_jsons(node: DictConfig, *, train: bool) -> DataSource:
    image_root, val_json = _path(node, "image_root"), _path(node, "val_json")
    val_root = os.path.expanduser(str(node.get("val_image_root") or image_root))
    splits = {"train": (_path(node, "train_json"), image_root)} if train else {}
    splits["val"] = (val_json, val_root)
    allow_outside = bool(node.get("allow_outside"))
    files = {name: (path, [root], None if allow_outside else root) for name, (path, root) in splits.items()}
    return read_coco_files(os.path.abspath(image_root), files)


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
    folders = [os.path.join(root, name) for name in list_folder(root) if os.path.isdir(os.path.join(root, name))]
    finders = [find for entry in FORMATS.values() for find in entry.finders()]
    inner = [folder for folder in folders if any(find(folder) for find in finders)]
    if inner:
        hint = f"; did you mean {inner[0]}?"
    elif foreign := _foreign([root, *folders]):
        hint = f". This may be {foreign}"
    elif has_labels(root):
        hint = ". This may be YOLO without class names: write them into data.yaml, or one a line into classes.txt"
    else:
        hint = ""
    return (
        "no data set recognised: looked for COCO (annotations/*.json, train/_annotations.coco.json, *.json), YOLO "
        "(data.yaml, obj.data, classes.txt), Pascal VOC (Annotations/*.xml, train/*.xml, *.xml) and labelme "
        f"(*.json){hint}"
    )


def _foreign(folders: list[str]) -> str | None:
    names = [name.lower() for folder in folders for name in list_folder(folder)]
    return next((text for pattern, text in FOREIGN.items() if fnmatch.filter(names, pattern)), None)
