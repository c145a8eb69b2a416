"""Checking the annotations of a whole data set: each split by itself, then the splits together."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field

from detrex.data.checks.findings import Finding
from detrex.data.formats.coco_json import CocoData, check_content, count_objects
from detrex.data.formats.source import DataSource
from detrex.utils.text import count_of, short

SPLIT_ORDER = ("train", "val", "test")
NEEDED_SPLITS = ("train", "val")


@dataclass(frozen=True)
class CheckedData:
    """A data set whose annotations have been checked.

    Attributes:
        source: what was checked.
        splits: name -> the records that can be used.
        findings: what is wrong, record by record; nothing among them is an error if it can be trained on.
    """

    source: DataSource
    splits: dict[str, CocoData]
    findings: tuple[Finding, ...] = field(repr=False)

    @property
    def trainable(self) -> bool:
        """Whether no finding is an error."""
        return not any(f.is_error for f in self.findings)

    def with_findings(self, more: Sequence[Finding]) -> CheckedData:
        """The same with further findings."""
        return dataclasses.replace(self, findings=(*self.findings, *more))


def check_source(source: DataSource) -> CheckedData:
    """Check all annotations of a data set; image files are opened only as far as its reader did."""
    findings = list(source.findings)
    splits = {}
    for name in (n for n in SPLIT_ORDER if n in source.splits):
        split = source.splits[name]
        data = check_content(split.content, json_file=split.file, image_root=split.image_root, limit=split.limit)
        splits[name] = data
        found = [*data.findings, *_coverage(name, data)]
        findings += [dataclasses.replace(f, split=name) for f in found]
    if all(name in splits for name in NEEDED_SPLITS):
        findings += different_classes(*(splits[name] for name in NEEDED_SPLITS))
    return CheckedData(source, splits, tuple(findings))


def _coverage(split: str, data: CocoData) -> list[Finding]:
    """Images without boxes, classes without boxes, a split without either."""
    if not any(map(count_objects, data.records)):
        if split not in NEEDED_SPLITS:
            return []
        message = f"{count_of(len(data.records), 'usable image')} and not one usable box"
        if any(r["annotations"] for r in data.records):
            message += ": all boxes are crowds (iscrowd 1), which are not trained on; single objects have iscrowd 0"
        return [Finding("empty-split", data.json_file, message)]
    empty = [r["file_name"] for r in data.records if not r["annotations"]]
    findings = [Finding("image-without-boxes", path, "no boxes: background") for path in empty]
    unused = [n for n, count in zip(data.class_names, data.count_per_class(), strict=True) if not count]
    return findings + [Finding("unused-class", data.json_file, f"no boxes of {short(name)}") for name in unused]


def different_classes(train: CocoData, val: CocoData) -> list[Finding]:
    """What differs in the classes of two splits; [] if they are the same in the same order."""
    if train.class_names == val.class_names:
        return []
    only_train = [n for n in train.class_names if n not in val.class_names]
    only_val = [n for n in val.class_names if n not in train.class_names]
    if only_train or only_val:
        detail = f"only in the first: {short(only_train)}; only in the second: {short(only_val)}"
    else:
        detail = f"the same names in another order: {short(train.class_names)} and {short(val.class_names)}"
    message = f"{train.json_file} and {val.json_file} have different categories: {detail}"
    return [Finding("different-classes", "categories", message)]
