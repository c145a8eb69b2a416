"""Folders that are no data set at all."""

from __future__ import annotations

from .damage import damage


@damage("coco", "unknown-format", "no data set recognised")
def nothing_but_images(root):
    for path in (root / "annotations").iterdir():
        path.unlink()


@damage("yolo", "unknown-format", "no data set recognised")
def labels_without_yaml(root):
    (root / "data.yaml").unlink()


@damage("voc", "unknown-format", "did you mean")
def one_folder_too_high(root):
    (root / "VOC2007").mkdir()
    for name in ("Annotations", "JPEGImages", "ImageSets"):
        (root / name).rename(root / "VOC2007" / name)
