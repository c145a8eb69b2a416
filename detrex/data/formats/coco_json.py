"""COCO-format json: read strictly, checked record by record, written.

detectron2's own reader stops at the first bad record with an assertion, or reads on; and evaluation with pycocotools
goes silently wrong on annotation ids that start at 0 (it marks "unmatched" by 0) or that repeat. Here every record is
checked before anything is built, harmless flaws are repaired and counted, and the rest is reported together.

The readers of other formats convert to the same content. An item may carry ``WHERE``, the place in another format's
file that it was converted from, which findings then name.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from detectron2.structures import BoxMode

from detrex.data.checks.boxes import PIXEL_TOLERANCE, degenerate_reason, overhang, wrong_convention
from detrex.data.checks.findings import DatasetError, Finding
from detrex.data.checks.images import ImageFacts, ImageFault, read_headers
from detrex.data.checks.paths import FileListing, is_inside, read_json
from detrex.utils.text import printable, short

WHERE = object()  # no json has such keys
FILE_FACTS = object()  # ImageFacts of an image whose header a reader has seen
OUTLINE = ("images", "annotations", "categories")
MAX_ASPECT = 50  # 1333 pixels of the long side leave 27 of the short one

_INTEGER = re.compile(r"-?[0-9]{1,19}(\.0*)?")
_FLAGS = {"": 0, "0": 0, "0.0": 0, "false": 0, "no": 0, "1": 1, "1.0": 1, "true": 1, "yes": 1}
_KIND_OF_REASON = {
    "not finite": "box-not-finite",
    "zero or negative size": "box-without-area",
    "outside the image": "box-outside",
}
# Lists and keys of other formats -> their name. Each can be exported again as COCO json.
_OTHER_FORMATS = {
    "shapes": "labelme, with one json per image: put these files into a folder of their own",
    "labels": "FiftyOne's image detection format; export it with dataset_type=fiftyone.types.COCODetectionDataset",
    "samples": "FiftyOne's own format; export it with dataset_type=fiftyone.types.COCODetectionDataset",
    "_via_img_metadata": "the project of a VGG Image Annotator; export it as COCO",
    "assets": "a VoTT project; export it as Pascal VOC",
    "data": 'Label Studio\'s own format; export it as "COCO" or "YOLO with Images"',
    "image": 'CreateML; export it as "COCO"',
}


@dataclass(frozen=True)
class CocoData:
    """A checked COCO-format data set.

    Attributes:
        json_file: path that was read; of another format, the folder or file that stands for it.
        category_ids: ids as in the file, ascending; position in this tuple is the contiguous class id.
        class_names: names in the same order, control characters escaped.
        records: detectron2's standard dicts (file_name, height, width, image_id, annotations with contiguous
            ``category_id`` and XYWH_ABS boxes in pixels), ordered by image id; images that cannot be used, degenerate
            and repeated boxes are left out.
        dropped: reason -> number of boxes left out of ``records``.
        repairs: what an evaluation against the file as it stands would get wrong; empty for a clean file.
        areas: COCO areas (square pixels) of the kept annotations, one list per record.
        findings: what is wrong, record by record.
        annotated: False for a test json that has no list of annotations.
    """

    json_file: str
    category_ids: tuple[int, ...]
    class_names: tuple[str, ...]
    records: list[dict[str, Any]] = field(repr=False)
    dropped: Mapping[str, int]
    repairs: tuple[str, ...]
    areas: list[list[float]] = field(repr=False)
    findings: tuple[Finding, ...] = field(repr=False)
    annotated: bool = True

    @property
    def max_objects(self) -> int:
        """Largest number of non-crowd objects on one image."""
        return max(map(count_objects, self.records), default=0)

    def count_per_class(self) -> list[int]:
        """Number of non-crowd boxes of each class, in the order of ``class_names``."""
        counts = Counter(a["category_id"] for r in self.records for a in r["annotations"] if not a["iscrowd"])
        return [counts[i] for i in range(len(self.class_names))]


def count_objects(record: dict[str, Any]) -> int:
    """Number of non-crowd objects on the image of a record."""
    return sum(not a["iscrowd"] for a in record["annotations"])


# ---------------------------------------------------------------------------------------------------- reading a file
def load_content(path: str, *, required: Sequence[str] = OUTLINE) -> dict[str, Any]:
    """Parse a json and check its outline: lists of objects, those of "images" and "categories" not empty.

    Args:
        path: of the file.
        required: which of "images", "annotations" and "categories" must be there.

    Raises:
        DatasetError: there is no such file, or it is something else.
        OSError, MemoryError: the machine cannot read it.
    """
    content = read_json(path)
    lists = content if isinstance(content, dict) else {}
    for key in [key for key in OUTLINE if key in required or key in lists]:
        if not isinstance(lists.get(key), list):
            raise _unreadable(path, f'no list "{key}" at the top level; a COCO detection json has images, '
                                    f"annotations and categories{_other_format(content)}")  # fmt: skip
        bad = next((i for i, item in enumerate(lists[key]) if not isinstance(item, dict)), None)
        if bad is not None:
            raise _unreadable(path, f"{key}[{bad}] is not an object: {short(lists[key][bad])}")
    for key, kind in (("images", "empty-split"), ("categories", "bad-classes")):
        if lists.get(key) == []:
            raise DatasetError.of(kind, path, f'the list "{key}" is empty')
    return lists


def _unreadable(path: str, message: str) -> DatasetError:
    return DatasetError.of("unreadable-annotations", path, message)


def _other_format(content: Any) -> str:
    item = content[0] if isinstance(content, list) and content else content
    names = [name for key, name in _OTHER_FORMATS.items() if isinstance(item, dict) and key in item]
    return f". This is {names[0]}" if names else ""


# ---------------------------------------------------------------------------------------------------------- checking
def check_content(content: dict[str, Any], *, json_file: str, image_root: str, limit: str | None) -> CocoData:
    """Check COCO-format content; what cannot be used is left out and stands in ``findings``.

    Args:
        content: lists "images", "annotations" and "categories" of dicts, as ``load_content`` returns it.
        json_file: what the content was read from, for messages.
        image_root: folder that the images' ``file_name`` is relative to.
        limit: folder that no ``file_name`` may leave; None lets them.
    """
    findings: list[Finding] = []
    categories = _check_categories(content["categories"], findings)
    records, bad = _check_images(content["images"], image_root, limit, findings)
    contiguous = {category_id: i for i, category_id in enumerate(categories)}
    annotations = content.get("annotations", [])
    areas, dropped = _attach_annotations(annotations, records, contiguous, findings)
    repairs = _needed_repairs(content, findings)
    order = sorted(set(records) - bad)
    return CocoData(
        json_file=json_file,
        category_ids=tuple(categories),
        class_names=tuple(categories.values()),
        records=[records[i] for i in order],
        dropped=dropped,
        repairs=(*repairs, "degenerate or repeated boxes") if dropped else tuple(repairs),
        areas=[areas[i] for i in order],
        findings=tuple(findings),
        annotated="annotations" in content,
    )


def as_int(value: object) -> int | None:
    """The integer of at most 64 bits that a number is, or its text; None for anything else. True is no number."""
    if isinstance(value, str) and _INTEGER.fullmatch(value):
        value = int(value.partition(".")[0])
    elif isinstance(value, float) and value.is_integer():
        value = int(value)
    return value if _is_int(value) else None


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63


def _check_categories(items: list[dict[str, Any]], findings: list[Finding]) -> dict[int, str]:
    """Category id -> name, ascending by id."""
    names: dict[int, str] = {}
    for i, item in enumerate(items):
        where = item.get(WHERE) or f"categories[{i}]"
        category_id, name = as_int(item.get("id")), item.get("name")
        if isinstance(name, str) and (shown := printable(name)) != name:
            findings.append(Finding("unprintable-name", where, f"the class name {short(name)} is kept as {shown}"))
            name = shown
        if category_id is None:
            problem = f"id {short(item.get('id'))} is not an integer of 64 bits"
        elif category_id in names:
            problem = f"duplicate category id {category_id} ({short(names[category_id])}, {short(name)})"
        elif not isinstance(name, str) or not name.strip():
            problem = f"category {category_id} has no name"
        elif name in names.values():
            problem = f"the name {short(name)} is used by two categories"
        else:
            names[category_id] = name
            continue
        findings.append(Finding("bad-classes", where, problem))
    spelling: dict[str, str] = {}
    for name in names.values():
        first = spelling.setdefault("".join(name.casefold().split()), name)
        if first != name:
            findings.append(Finding("similar-classes", "categories", f"{short(first)} and {short(name)}"))
    return dict(sorted(names.items()))


def _check_images(
    items: list[dict[str, Any]], image_root: str, limit: str | None, findings: list[Finding]
) -> tuple[dict[int, dict[str, Any]], set[int]]:
    """Image id -> record without annotations, and the ids among them that cannot be used.

    Args:
        items: the list "images".
        image_root: folder that file names are relative to.
        limit: folder that no file name may leave; None lets them.
        findings: what is wrong is appended.
    """
    records: dict[int, dict[str, Any]] = {}
    bad: set[int] = set()
    listing = FileListing()
    headers = _missing_sizes(items, image_root, limit, listing, findings)
    for i, item in enumerate(items):
        image_id, name = as_int(item.get("id")), item.get("file_name")
        where = item.get(WHERE) or f"images[{i}] ({short(name)})"
        if image_id is None:
            message = f"id {short(item.get('id'))} is not an integer of 64 bits"
            findings.append(Finding("bad-image-record", where, message))
            continue
        if image_id in records:
            first = os.path.relpath(records[image_id]["file_name"], image_root)
            message = f"duplicate image id {image_id} ({short(first)}, {short(name)})"
            findings.append(Finding("duplicate-image-id", where, message))
            bad.add(image_id)
            continue
        facts = headers.get(i, item.get(FILE_FACTS))
        size = [as_int(item.get(side, getattr(facts, side, None))) for side in ("width", "height")]
        usable_size = all(v is not None and v > 0 for v in size)
        problems = _file_problems(image_id, name, image_root, limit, listing)
        if isinstance(facts, ImageFault):
            problems.append((facts.kind, str(facts)))
        elif not usable_size:
            shown = f"({short(item.get('height'))}, {short(item.get('width'))})"
            message = f"image {image_id}: height, width = {shown} are not positive integers"
            problems.append(("bad-image-record", message))
        elif facts is not None:
            problems += size_problems(facts, width=size[0], height=size[1])
        if problems:
            bad.add(image_id)
        elif max(size) > MAX_ASPECT * min(size):
            problems.append(("extreme-shape", f"{size[0]} x {size[1]} pixels (width x height)"))
        if isinstance(name, str) and printable(name) != name:
            problems.append(("unprintable-name", f"the file name {short(name)}"))
        findings += [Finding(kind, where, message) for kind, message in problems]
        width, height = size if usable_size else (1, 1)
        records[image_id] = {
            "file_name": os.path.join(image_root, name if isinstance(name, str) else ""),
            "height": height,
            "width": width,
            "image_id": image_id,
            "annotations": [],
        }
    return records, bad


def _missing_sizes(
    items: list[dict[str, Any]], root: str, limit: str | None, listing: FileListing, findings: list[Finding]
) -> dict[int, ImageFacts | ImageFault]:
    """Position of an image without width or height -> what its file says."""
    lacking = {
        i: os.path.join(root, item["file_name"])
        for i, item in enumerate(items)
        if ("width" not in item or "height" not in item) and isinstance(item.get("file_name"), str)
    }
    readable = {i: p for i, p in lacking.items() if (limit is None or is_inside(p, limit)) and listing.find(p) == p}
    if readable:
        first = short(items[next(iter(readable))]["file_name"])
        message = f"no size of {len(readable)} of {len(items)} images, for example {first}; read from the files"
        findings.append(Finding("missing-fields", "images", message))
    return dict(zip(readable, read_headers(list(readable.values())), strict=True))


def _file_problems(
    image_id: int, name: Any, root: str, limit: str | None, listing: FileListing
) -> list[tuple[str, str]]:
    if not isinstance(name, str) or not name:
        return [("bad-image-record", f"image {image_id} has no file_name")]
    path = os.path.join(root, name)
    if limit is not None and not is_inside(path, limit):
        message = f"image {image_id} is outside {limit}; dataloader.data.allow_outside=True permits it"
        return [("outside-root", message)]
    if listing.find(path) != path:
        hint = "the name has backslashes" if "\\" in name else "check dataloader.data.image_root"
        return [("missing-image", f"image {image_id}: no file {path}; {hint}")]
    return []


def size_problems(facts: ImageFacts, *, width: int, height: int) -> list[tuple[str, str]]:
    """(kind, message) where a file contradicts the size that its annotation states."""
    if (width, height) == (facts.width, facts.height):
        return []
    if (width, height) == facts.stored_size:
        message = f"EXIF orientation {facts.orientation} turns the image, the annotation is of the view before that"
        return [("exif-mismatch", message)]
    message = f"the image is {facts.width} x {facts.height}, its annotation says {width} x {height} (width x height)"
    return [("wrong-size", message)]


def _attach_annotations(
    items: list[dict[str, Any]],
    records: dict[int, dict[str, Any]],
    contiguous: dict[int, int],
    findings: list[Finding],
) -> tuple[dict[int, list[float]], Counter[str]]:
    """Append each annotation to its record.

    Args:
        items: the list "annotations".
        records: image id -> record; boxes are appended to its "annotations".
        contiguous: category id -> class id.
        findings: what is wrong is appended.

    Returns:
        COCO areas per image id in the order of the annotations, and dropped boxes by reason.
    """
    areas: dict[int, list[float]] = defaultdict(list)
    dropped: Counter[str] = Counter()
    classes_of_box: dict[tuple, set[int]] = defaultdict(set)
    boxes: list[tuple[list[float], float, float]] = []
    for i, item in enumerate(items):
        where = item.get(WHERE) or f"annotations[{i}] (id {short(item.get('id'))}, image {short(item.get('image_id'))})"
        record, bbox, crowd = records.get(as_int(item.get("image_id"))), _bbox(item), crowd_flag(item.get("iscrowd"))
        if problems := _annotation_problems(item, record, bbox, crowd, contiguous):
            findings += [Finding(kind, where, message) for kind, message in problems]
            continue
        width, height = record["width"], record["height"]
        boxes.append((bbox, width, height))
        class_id = contiguous[as_int(item["category_id"])]
        reason = degenerate_reason(bbox, width, height)
        if reason is not None:
            findings.append(Finding(_KIND_OF_REASON[reason], where, f"bbox {bbox}: {reason}"))
            dropped[reason] += 1
            continue
        others = classes_of_box[(record["image_id"], *bbox, crowd)]
        if class_id in others:
            findings.append(Finding("duplicate-box", where, f"bbox {bbox} for the second time"))
            dropped["repeated on its image"] += 1
            continue
        if others:
            findings.append(Finding("conflicting-box", where, f"bbox {bbox} has another class as well"))
        others.add(class_id)
        if overhang(bbox, width, height) > PIXEL_TOLERANCE:
            findings.append(Finding("box-partly-outside", where, f"bbox {bbox} on an image of {width} x {height}"))
        box = {"bbox": [float(v) for v in bbox], "bbox_mode": BoxMode.XYWH_ABS}
        record["annotations"].append({**box, "category_id": class_id, "iscrowd": crowd})
        area = item["area"] if is_area(item.get("area")) else bbox[2] * bbox[3]
        areas[record["image_id"]].append(float(area))
    if problem := wrong_convention(boxes):
        findings.append(Finding("wrong-convention", "annotations", problem))
    return areas, dropped


def _annotation_problems(
    item: dict[str, Any], record: dict[str, Any] | None, bbox: Any, crowd: int | None, contiguous: dict[int, int]
) -> list[tuple[str, str]]:
    problems = []
    if record is None:
        problems.append(("unknown-image", f"unknown image id {short(item.get('image_id'))}"))
    if as_int(item.get("category_id")) not in contiguous:
        known = ", ".join(map(str, list(contiguous)[:20]))
        message = f"unknown category id {short(item.get('category_id'))}; the file defines {known}"
        problems.append(("unknown-class", message))
    if not isinstance(bbox, list) or len(bbox) != 4 or not all(map(_is_number, bbox)):
        problems.append(("malformed-box", f"bbox {short(bbox)} is not [x, y, width, height]"))
    if crowd is None:
        problems.append(("bad-crowd-flag", f"iscrowd {short(item['iscrowd'])} is neither 0 nor 1"))
    return problems


def _bbox(item: dict[str, Any]) -> Any:
    """The box of an annotation; without one, that around its polygons."""
    bbox, polygons = item.get("bbox"), item.get("segmentation")
    if bbox not in (None, []) or not isinstance(polygons, list) or not polygons:
        return bbox
    polygons = [polygons] if all(map(_is_number, polygons)) else polygons
    if not all(isinstance(p, list) and len(p) >= 6 and len(p) % 2 == 0 and all(map(_is_number, p)) for p in polygons):
        return bbox
    xs, ys = ([v for p in polygons for v in p[start::2]] for start in (0, 1))
    return [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)]


def crowd_flag(value: object) -> int | None:
    """0 or 1, also of a boolean, a text or a missing value; None for anything else."""
    if isinstance(value, str):
        return _FLAGS.get(value.strip().lower())
    return 0 if value is None else int(value) if value in (0, 1) else None


def _is_number(value: object) -> bool:
    return isinstance(value, float) or _is_int(value)


def is_area(value: object) -> bool:
    """Whether an area counts; a negative one would take its object out of every range of sizes."""
    return _is_number(value) and math.isfinite(value) and value >= 0


def _needed_repairs(content: dict[str, Any], findings: list[Finding]) -> list[str]:
    """What pycocotools would misread in a file; each stands in the findings."""
    items = content.get("annotations", [])
    ids = [item.get("id") for item in items]
    repairs = {}
    if not all(_is_int(i) and i > 0 for i in ids):
        repairs["annotation ids that are missing or not positive"] = "bad-annotation-id"
    elif len(set(ids)) != len(ids):
        repairs["repeated annotation ids"] = "bad-annotation-id"
    areas = [item.get("area") for item in items if not is_area(item.get("area"))]
    if any(_is_number(area) and area < 0 for area in areas):
        repairs["negative areas"] = "missing-fields"
    elif areas:
        repairs["missing areas"] = "missing-fields"
    if not all(item.get("iscrowd") in (0, 1) for item in items):
        repairs["missing crowd flags"] = "missing-fields"
    if any(item.get("bbox") in (None, []) and _bbox(item) for item in items):
        repairs["polygons without boxes"] = "polygon-label"
    keys = {"categories": ("id",), "images": ("id", "width", "height"), "annotations": ("image_id", "category_id")}
    values = (item.get(key) for name, names in keys.items() for item in content.get(name, []) for key in names)
    if any(isinstance(v, (str, float)) and as_int(v) is not None for v in values):
        repairs["ids or sizes as text or as 640.0"] = "number-as-text"
    findings += [Finding(kind, "annotations", f"the file has {text}") for text, kind in repairs.items()]
    return list(repairs)


# ----------------------------------------------------------------------------------------------------------- writing
def write_coco_json(data: CocoData, path: str | os.PathLike[str]) -> None:
    """Write ``coco_content``; the file appears in one move, so that several processes may write the same one."""
    write_json(coco_content(data), path)


def coco_content(data: CocoData) -> dict[str, list[dict[str, Any]]]:
    """``data`` in COCO's form, as pycocotools evaluates it correctly: ids from 1, areas and crowd flags present.

    A data set that is not annotated has no list "annotations".
    """
    images, annotations = [], []
    for record, areas in zip(data.records, data.areas, strict=True):
        size = {"height": record["height"], "width": record["width"]}
        images.append({"id": record["image_id"], "file_name": record["file_name"], **size})
        for annotation, area in zip(record["annotations"], areas, strict=True):
            item = {"id": len(annotations) + 1, "image_id": record["image_id"]}
            item["category_id"] = data.category_ids[annotation["category_id"]]
            annotations.append({**item, **{key: annotation[key] for key in ("bbox", "iscrowd")}, "area": area})
    names = zip(data.category_ids, data.class_names, strict=True)
    content = {"images": images, "categories": [{"id": i, "name": name} for i, name in names]}
    return {**content, "annotations": annotations} if data.annotated else content


def write_json(content: Any, path: str | os.PathLike[str]) -> None:
    """Write a json completely or not at all; its folder is created."""
    target = os.fspath(path)
    os.makedirs(os.path.dirname(target) or ".", exist_ok=True)
    temporary = f"{target}.{os.getpid()}.tmp"
    with open(temporary, "w", encoding="utf-8") as f:
        json.dump(content, f)
    os.replace(temporary, target)
