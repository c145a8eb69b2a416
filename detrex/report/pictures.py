"""The sections of the page that are pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from detrex.analysis.mistakes import Match, describe_false, false_detections, missed_objects, unsure_detection
from detrex.data import read_image
from detrex.inference.detections import class_name
from detrex.utils.text import count_of

from .attention import AttentionRecord, SampledDetection, record_attention
from .overlays import Dot, Picture, Rectangle, crop, embed, found_boxes, true_boxes
from .run_output import MissingPartError, RunOutput

__all__ = ["Pair", "PictureSections", "SampledImage"]

PAIR_WIDTH, PROPOSALS_WIDTH = 460, 640


@dataclass(frozen=True)
class Pair:
    """Ground truth and predictions of one image."""

    truth: Picture
    found: Picture


@dataclass(frozen=True)
class SampledImage:
    """Pictures of sampling points, and the names of the levels in the order of their colours."""

    pictures: tuple[Picture, ...]
    levels: tuple[str, ...]


class PictureSections:
    """Each method returns the content of one section, or raises :class:`MissingPartError`.

    Args:
        run: what to report on.
        images: pairs of ground truth and prediction.
        mistakes: false detections, and as many misses.
    """

    def __init__(self, run: RunOutput, *, images: int = 6, mistakes: int = 12):
        self.run, self._images, self._mistakes = run, images, mistakes

    def false_detections(self) -> list[Picture]:
        """The most confident detections that are wrong."""
        return [self._false(m) for m in false_detections(self.run.matches, self._mistakes)]

    def missed_objects(self) -> list[Picture]:
        """The largest objects that were not detected."""
        return [self._missed(m) for m in missed_objects(self.run.matches, self._mistakes)]

    def predictions(self) -> list[Pair]:
        """Images at even distances through the data set."""
        data, found = self.run.data, self.run.detections
        ids = list(data.files)
        chosen = [ids[i] for i in np.linspace(0, len(ids) - 1, min(self._images, len(ids))).round().astype(int)]
        return [self._pair(image_id, found.get(image_id, ())) for image_id in chosen]

    def sampling(self) -> SampledImage:
        """Where the last decoder layer looks for the best detections on one image."""
        file, image, seen = self._record
        height, width = image.shape[:2]
        pictures = []
        for attended in seen.detections:
            name = class_name(self.run.detector.class_names, attended.class_id)
            outlines, dots = _outlines(attended, width, height), _dots(attended, width, height)
            alt = f"Sampling points of the query that detects a {name} on {file}"
            caption = f"{file}: {name} {attended.score:.2f}"
            focus = _surrounding(outlines, dots)
            pictures.append(crop(image, focus, outlines, dots, alt=alt, caption=caption, margin=1.15))
        levels = seen.detections[0].points_NLP2.shape[1]
        return SampledImage(tuple(pictures), tuple(f"level {i + 1} of {levels}" for i in range(levels)))

    def proposals(self) -> Picture:
        """The encoder's best proposals on the same image."""
        file, image, seen = self._record
        if seen.proposals_M4 is None:
            raise MissingPartError("the model is one-stage: its queries are learned, its encoder makes no proposals")
        source, width, height, _ = embed(image, PROPOSALS_WIDTH)
        boxes = [
            _box(box, width, height, "proposal", title=f"objectness {score:.2f}", opacity=0.15 + 0.85 * float(score))
            for box, score in zip(seen.proposals_M4[::-1], seen.objectness_M[::-1], strict=True)
        ]
        best, last = seen.objectness_M[0], seen.objectness_M[-1]
        caption = f"{file}: the best {len(boxes)}, objectness {best:.2f} to {last:.2f}"
        return Picture(source, width, height, f"The encoder's best {len(boxes)} proposals on {file}", caption, boxes)

    def _false(self, match: Match) -> Picture:
        data = self.run.data
        file, found = data.files[match.image_id], match.detection
        what = describe_false(match, data.names)
        name = f"{data.names[found['category_id']]} {found['score']:.2f}"
        rectangles = [*_quiet(true_boxes(data.objects[match.image_id], data.names)), *found_boxes([found], data.names)]
        alt = f"False detection of a {name} on {Path(file).name}: {what}"
        return crop(read_image(file), found["bbox"], rectangles, alt=alt, caption=f"{name}: {what}")

    def _missed(self, match: Match) -> Picture:
        data = self.run.data
        file, missed = data.files[match.image_id], match.object
        found = self.run.detections.get(match.image_id, ())
        near = [d for d in found if d["score"] >= self.run.threshold]
        weak = unsure_detection(match, found[len(near) :])
        rectangles = [*_quiet(found_boxes(near, data.names)), *true_boxes([missed], data.names)]
        name = data.names[missed["category_id"]]
        if weak is not None:
            what = f"found with a score of only {weak['score']:.2f}"
        elif match.iou > 0:
            what = f"nearest detection: IoU {match.iou:.2f}"
        else:
            what = "nothing of its class near"
        alt = f"Missed {name} on {Path(file).name}: {what}"
        return crop(read_image(file), missed["bbox"], rectangles, alt=alt, caption=f"{name}: {what}")

    def _pair(self, image_id: int, found: Sequence[Mapping[str, Any]]) -> Pair:
        data = self.run.data
        name, objects = Path(data.files[image_id]).name, data.objects[image_id]
        shown = [d for d in found if d["score"] >= self.run.threshold]
        source, width, height, scale = embed(read_image(data.files[image_id]), PAIR_WIDTH)
        sides = []
        for what, boxes in (("ground truth", true_boxes(objects, data.names, scale)),
                            ("prediction", found_boxes(shown, data.names, scale))):  # fmt: skip
            text = f"{name}, {what}: {count_of(len(boxes), 'box')}"
            sides.append(Picture(source, width, height, text, text, boxes))
        return Pair(*sides)

    @cached_property
    def _record(self) -> tuple[str, np.ndarray, AttentionRecord]:
        """The image with the most classes, and of those the first."""
        data = self.run.data
        image_id = max(data.files, key=lambda i: len({o["category_id"] for o in data.objects[i]}))
        image = read_image(data.files[image_id])
        return Path(data.files[image_id]).name, image, record_attention(self.run.detector, image)


def _quiet(rectangles: Sequence[Rectangle]) -> list[Rectangle]:
    """The other boxes around a mistake: thin, without a label."""
    return [replace(r, style=f"{r.style} quiet", label="") for r in rectangles]


def _outlines(attended: SampledDetection, width: int, height: int) -> list[Rectangle]:
    boxes = [_box(attended.box_4, width, height, "found inside", title="predicted box")]
    if len(attended.anchor) == 4:
        boxes.insert(0, _box(attended.anchor, width, height, "anchor", title="the box around which the layer samples"))
    return boxes


def _dots(attended: SampledDetection, width: int, height: int) -> list[Dot]:
    """Lightest first, so that the weightiest end on top."""
    heads, levels, points = attended.weights_NLP.shape
    share_NLP = attended.weights_NLP / attended.weights_NLP.max()
    order = np.argsort(share_NLP, axis=None, kind="stable")
    level_NLP = np.broadcast_to(np.arange(levels)[None, :, None], (heads, levels, points))
    xy, share, level = attended.points_NLP2.reshape(-1, 2)[order], share_NLP.ravel()[order], level_NLP.ravel()[order]
    return [
        Dot(round(float(x) * width, 1), round(float(y) * height, 1), round(1.2 + 2.4 * float(s) ** 0.5, 2), int(k),
            round(0.25 + 0.75 * float(s), 2))
        for (x, y), s, k in zip(xy, share, level, strict=True)
    ]  # fmt: skip


def _surrounding(outlines: Sequence[Rectangle], dots: Sequence[Dot]) -> tuple[float, float, float, float]:
    """The box, xywh, around boxes and points."""
    x = [v for r in outlines for v in (r.x, r.x + r.width)] + [d.x for d in dots]
    y = [v for r in outlines for v in (r.y, r.y + r.height)] + [d.y for d in dots]
    return min(x), min(y), max(x) - min(x), max(y) - min(y)


def _box(box_4: np.ndarray, width: int, height: int, style: str, *, title: str, opacity: float = 1.0) -> Rectangle:
    x, y, w, h = (float(v) for v in box_4)
    corner = (x - w / 2) * width, (y - h / 2) * height
    return Rectangle(*corner, w * width, h * height, style, "", "", title, round(opacity, 2))
