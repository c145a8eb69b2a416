"""Checking a data set: the annotations of each split, the splits together, and every image file.

Files are decoded once, in parallel, and compared with their records.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field

from detrex.data.checks.findings import Finding
from detrex.data.checks.images import IMAGE_SUFFIXES, ImageFacts, ImageFault, inspect_image
from detrex.data.checks.paths import list_files
from detrex.data.formats.coco_json import CocoData, check_content, count_objects, size_problems
from detrex.data.formats.source import DataSource
from detrex.utils.text import count_of, short

EVALUATING_FIRST = ("val", "test", "train")  # of a picture in two splits, the one in the earlier split stays
CHUNK = 16  # images per message to a worker
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


# ------------------------------------------------------------------------------------------------------- image files
@dataclass(frozen=True)
class CheckedFiles:
    """A data set whose annotations and image files have been checked.

    Attributes:
        checked: the data set, with the findings of both.
        facts: split -> image id -> what the file is; without the files that cannot be used.
        redundant: split -> ids of images that another record holds too, in this or another split.
    """

    checked: CheckedData
    facts: dict[str, dict[int, ImageFacts]] = field(repr=False)
    redundant: dict[str, set[int]] = field(repr=False)


def available_cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def check_files(
    checked: CheckedData,
    *,
    num_workers: int,
    num_queries: int | None = None,
    max_dets: int | None = None,
    on_progress: Callable[[int], None] = lambda count: None,
) -> CheckedFiles:
    """Decode every image of a data set and compare it with its record.

    Args:
        checked: of ``check_source``.
        num_workers: processes; 1 works in this one.
        num_queries: objects that the model can find on an image; None leaves crowded images alone.
        max_dets: detections of an image that the evaluation counts; likewise.
        on_progress: called after each image with the number of those done.

    Raises:
        OSError, MemoryError: the machine cannot read a file.
    """
    paths = list(dict.fromkeys(r["file_name"] for data in checked.splits.values() for r in data.records))
    results = dict(zip(paths, _inspect_all(paths, num_workers, on_progress), strict=True))
    findings: list[Finding] = []
    facts: dict[str, dict[int, ImageFacts]] = {}
    for split, data in checked.splits.items():
        found: list[Finding] = []
        facts[split] = _compare(data, results, found)
        found += _crowded(data, num_queries, max_dets)
        findings += [dataclasses.replace(f, split=split) for f in found]
    redundant = _same_pictures(checked, facts, findings)
    findings += _unlisted(checked)
    return CheckedFiles(checked.with_findings(findings), facts, redundant)


def _inspect_all(
    paths: list[str], num_workers: int, on_progress: Callable[[int], None]
) -> Iterator[ImageFacts | ImageFault]:
    if num_workers <= 1:
        results = map(inspect_image, paths)
        for count, result in enumerate(results, 1):
            on_progress(count)
            yield result
        return
    with ProcessPoolExecutor(num_workers) as pool:
        try:
            for count, result in enumerate(pool.map(inspect_image, paths, chunksize=CHUNK), 1):
                on_progress(count)
                yield result
        except BrokenProcessPool as e:
            message = f"a process that reads images was killed, probably for its memory; use fewer than {num_workers}"
            raise MemoryError(message) from e


def _compare(
    data: CocoData, results: dict[str, ImageFacts | ImageFault], findings: list[Finding]
) -> dict[int, ImageFacts]:
    usable = {}
    for record in data.records:
        path, result = record["file_name"], results[record["file_name"]]
        if isinstance(result, ImageFault):
            findings.append(Finding(result.kind, path, str(result)))
            continue
        problems = size_problems(result, width=record["width"], height=record["height"])
        findings += [Finding(kind, path, message) for kind, message in problems]
        if result.orientation != 1 and not problems:
            message = f"EXIF orientation {result.orientation}; the annotation fits the rotated view"
            findings.append(Finding("exif-rotation", path, message))
        if not any(kind == "wrong-size" for kind, _ in problems):
            usable[record["image_id"]] = result
    return usable


def _crowded(data: CocoData, num_queries: int | None, max_dets: int | None) -> list[Finding]:
    findings = []
    for record in data.records:
        count = count_objects(record)
        for limit, what in ((num_queries, "the model has {} queries"), (max_dets, "the evaluation counts {}")):
            if limit is not None and count > limit:
                message = f"{count_of(count, 'object')}, but {what.format(limit)}"
                findings.append(Finding("crowded-image", record["file_name"], message))
    return findings


def _same_pictures(
    checked: CheckedData, facts: dict[str, dict[int, ImageFacts]], findings: list[Finding]
) -> dict[str, set[int]]:
    first: dict[str, tuple[str, dict]] = {}
    redundant: dict[str, set[int]] = {split: set() for split in checked.splits}
    for split in (s for s in EVALUATING_FIRST if s in checked.splits):
        for record in checked.splits[split].records:
            if record["image_id"] not in facts[split]:
                continue
            key = facts[split][record["image_id"]].pixel_hash
            first_split, original = first.setdefault(key, (split, record))
            if original is record:
                continue
            redundant[split].add(record["image_id"])
            other = original["file_name"]
            if first_split != split:
                message = f"the same picture as {other} in {first_split}"
                findings.append(Finding("leakage", record["file_name"], message, split))
            elif other == record["file_name"] and original["annotations"] != record["annotations"]:
                message = f"images {original['image_id']} and {record['image_id']} are this file, with different boxes"
                findings.append(Finding("repeated-file", record["file_name"], message, split))
            else:
                findings.append(Finding("duplicate-image", record["file_name"], f"the same picture as {other}", split))
    return redundant


def _unlisted(checked: CheckedData) -> list[Finding]:
    """Image files below the image folders of a COCO-format data set that no json lists, per folder."""
    if checked.source.format != "COCO json":
        return []  # the other formats' readers start from the files and report them
    listed = {
        os.path.abspath(os.path.join(s.image_root, item["file_name"]))
        for s in checked.source.splits.values()
        for item in s.content["images"]
        if isinstance(item.get("file_name"), str)
    }
    findings = []
    for folder in sorted({os.path.abspath(s.image_root) for s in checked.source.splits.values()}):
        files = list_files(folder, IMAGE_SUFFIXES)
        unlisted = [path for path in files if path not in listed]
        if unlisted:
            message = (
                f"{len(unlisted)} of {count_of(len(files), 'image file')} not in any json, for example {unlisted[0]}"
            )
            findings.append(Finding("unlisted-file", folder, message))
    return findings
