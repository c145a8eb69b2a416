"""Which detections are which objects: the confusion matrix, false detections and misses."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

__all__ = [
    "Confusion",
    "Match",
    "confusion",
    "describe_false",
    "false_detections",
    "match_image",
    "missed_objects",
    "unsure_detection",
]

MIN_IOU = 0.5  # from which a detection is an object's
NEAR_IOU = 0.1  # from which a false detection is called badly placed rather than background
PER_IMAGE = 2  # mistakes of one image that are shown, so that one bad image does not fill the page

Entry = Mapping[str, Any]  # of a COCO json or results file


@dataclass(frozen=True)
class Match:
    """A detection, an object, or both where they belong together, be their classes the same or not.

    Attributes:
        image_id: of both.
        detection: None for a missed object.
        object: None for a false detection of the background, or beside a crowd.
        iou: of the two; of a detection alone, with the nearest object of its class; of an object alone, with the
            nearest detection of its class.
        repeated: the detection is of an object that a better one has taken.
    """

    image_id: int
    detection: Entry | None
    object: Entry | None
    iou: float
    repeated: bool = False

    @property
    def is_right(self) -> bool:
        """Whether the detection has found an object of its class."""
        return bool(self.detection and self.object) and self.detection["category_id"] == self.object["category_id"]


@dataclass(frozen=True)
class Confusion:
    """Counts of objects (rows) by what they were detected as (columns).

    Attributes:
        names: of the classes; the last is the sum of those that are not listed, if there are such.
        counts: (K + 1, K + 1); the last row counts detections of the background, the last column missed objects.
    """

    names: tuple[str, ...]
    counts: np.ndarray


def match_image(image_id: int, objects: Sequence[Entry], found: Sequence[Entry]) -> list[Match]:
    """Assign detections to objects with an IoU of 0.5 or more, the best detection first.

    Objects of the detection's class come first; what then is left on both sides is assigned across classes. A
    detection that is left within a crowd of its class counts as nothing.

    Args:
        image_id: of the image.
        objects: its annotations, crowds included.
        found: its detections above the threshold, best first.
    """
    crowds = [o for o in objects if o.get("iscrowd", 0)]
    objects = [o for o in objects if not o.get("iscrowd", 0)]
    iou, same = _iou(found, objects), _same_class(found, objects)
    taken = np.full(len(objects), -1)
    partner = np.full(len(found), -1)
    for allowed in (same, ~same):
        for row in np.flatnonzero(partner < 0):
            candidates = np.where(allowed[row] & (taken < 0), iou[row], 0.0)
            if candidates.size and candidates.max() >= MIN_IOU:
                partner[row] = candidates.argmax()
                taken[partner[row]] = row

    in_crowd = ((_iou(found, crowds) >= MIN_IOU) & _same_class(found, crowds)).any(1)
    near = np.where(same, iou, 0.0)
    matches = []
    for row, detection in enumerate(found):
        if partner[row] >= 0:
            matches.append(Match(image_id, detection, objects[partner[row]], float(iou[row, partner[row]])))
        elif not in_crowd[row]:
            best = float(near[row].max(initial=0.0))
            matches.append(Match(image_id, detection, None, best, best >= MIN_IOU))
    missed = np.flatnonzero(taken < 0)
    return matches + [Match(image_id, None, objects[i], float(near[:, i].max(initial=0.0))) for i in missed]


def confusion(matches: Iterable[Match], names: Mapping[int, str], limit: int = 20) -> Confusion:
    """The confusion matrix; of more than ``limit`` classes, those with the most mistakes by name and a sum of the rest.

    Args:
        matches: of all images. names: category id -> class name. limit: classes with a row of their own.
    """
    position = {category_id: i for i, category_id in enumerate(names)}
    outside = len(names)
    counts = np.zeros((outside + 1, outside + 1), dtype=int)
    for match in matches:
        row, column = (position[e["category_id"]] if e else outside for e in (match.object, match.detection))
        counts[row, column] += 1
    labels = tuple(names.values())
    if outside <= limit:
        return Confusion(labels, counts)
    wrong = counts.sum(0) + counts.sum(1) - 2 * counts.diagonal()
    listed = np.sort(np.argsort(-wrong[:-1], kind="stable")[:limit])
    group = np.full(outside + 1, limit)
    group[listed], group[-1] = np.arange(limit), limit + 1
    member = np.eye(limit + 2, dtype=int)[group]
    return Confusion((*(labels[i] for i in listed), f"{outside - limit} others"), member.T @ counts @ member)


def false_detections(matches: Iterable[Match], limit: int) -> list[Match]:
    """Detections that found no object of their class, the most confident first."""
    wrong = (m for m in matches if m.detection is not None and not m.is_right)
    return _spread(sorted(wrong, key=lambda m: -m.detection["score"]), limit)


def missed_objects(matches: Iterable[Match], limit: int) -> list[Match]:
    """Objects that no detection covers, the largest first."""
    missed = (m for m in matches if m.detection is None)
    return _spread(sorted(missed, key=lambda m: -m.object["bbox"][2] * m.object["bbox"][3]), limit)


def unsure_detection(missed: Match, found: Sequence[Entry]) -> Entry | None:
    """The first of the detections of a missed object's image that fits its box and class; None if none does."""
    fits = (_iou(found, [missed.object]) >= MIN_IOU) & _same_class(found, [missed.object])
    return next((found[row] for row in np.flatnonzero(fits)), None)


def describe_false(match: Match, names: Mapping[int, str]) -> str:
    """What is wrong with a false detection."""
    if match.object is not None:
        return f"it is a {names[match.object['category_id']]}"
    if match.repeated:
        return "found twice"
    if match.iou >= NEAR_IOU:
        return f"badly placed: IoU {match.iou:.2f}"
    return "nothing there"


def _spread(matches: Iterable[Match], limit: int) -> list[Match]:
    shown: Counter[int] = Counter()
    chosen = []
    for match in matches:
        if shown[match.image_id] < PER_IMAGE and len(chosen) < limit:
            shown[match.image_id] += 1
            chosen.append(match)
    return chosen


def _iou(found: Sequence[Entry], objects: Sequence[Entry]) -> np.ndarray:
    """(detections, objects); with a crowd, the share of the detection that lies within it."""
    if not found or not objects:
        return np.zeros((len(found), len(objects)))
    boxes = [np.array([e["bbox"] for e in entries], dtype=np.float64) for entries in (found, objects)]
    return coco_mask.iou(*boxes, [int(o.get("iscrowd", 0)) for o in objects])


def _same_class(found: Sequence[Entry], objects: Sequence[Entry]) -> np.ndarray:
    classes = [np.array([e["category_id"] for e in entries], dtype=int) for entries in (found, objects)]
    return classes[0][:, None] == classes[1][None, :]
