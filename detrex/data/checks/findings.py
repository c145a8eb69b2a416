"""What can be wrong with a data set: every kind of damage has a name, a severity and, where one exists, a cure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from detrex.utils.text import count_of, printable

MAX_REPORTED = 10


@dataclass(frozen=True)
class Kind:
    """One kind of damage.

    Attributes:
        severity: "error" when it cannot be trained or evaluated right as it is, "warning" when training copes.
        meaning: what is wrong and, for a warning, what training does about it.
        fix: what the cleaned copy holds instead; None where only a person can decide.
    """

    severity: Literal["error", "warning"]
    meaning: str
    fix: str | None = None


IMAGE_OUT, BOX_OUT = "the image is left out", "the box is left out"

KINDS: dict[str, Kind] = {
    # the whole data set
    "unknown-format": Kind("error", "no data set of a known format, or of more than one"),
    "unreadable-annotations": Kind("error", "an annotation file that cannot be read", IMAGE_OUT),
    "missing-annotations": Kind("error", "an annotation file that another file names is not there", IMAGE_OUT),
    "empty-split": Kind("error", "a training or validation split without images or without boxes"),
    "bad-classes": Kind("error", "classes without id or name, with a repeated one, or not as many as stated"),
    "different-classes": Kind("error", "training and validation have different classes"),
    "wrong-convention": Kind("error", "coordinates that follow another format's convention"),
    "outside-root": Kind("error", "a path that leaves the data set's folder", IMAGE_OUT),
    "leakage": Kind("error", "the same picture in two splits", "the picture stays in the split that evaluates"),
    # images
    "bad-image-record": Kind("error", "an image entry without a valid id, file name or size", IMAGE_OUT),
    "duplicate-image-id": Kind("error", "two images with one id", "both images are left out"),
    "repeated-file": Kind("error", "one file listed twice with different boxes", "the later image is left out"),
    "missing-image": Kind("error", "an image file that is not there", IMAGE_OUT),
    "unreadable-image": Kind("error", "a file that is not a readable image", IMAGE_OUT),
    "truncated-image": Kind("error", "an image file that ends too early", IMAGE_OUT),
    "damaged-image": Kind("error", "an image that decodes, but whose checksum says that it was changed", IMAGE_OUT),
    "decompression-bomb": Kind("error", "an image of more pixels than are safe to decode", IMAGE_OUT),
    "unsupported-pixels": Kind("error", "pixels of more than 8 bits, which 8-bit RGB would cut off", IMAGE_OUT),
    "wrong-size": Kind("error", "an image of another size than its annotation says", IMAGE_OUT),
    "exif-mismatch": Kind("error", "boxes drawn before the rotation that EXIF asks for", "boxes and size are rotated"),
    # annotations
    "unknown-image": Kind("error", "an annotation of an image that is not listed", BOX_OUT),
    "unknown-class": Kind("error", "an annotation of a class that is not defined", BOX_OUT),
    "malformed-box": Kind("error", "an annotation without the four numbers of a box", BOX_OUT),
    "bad-crowd-flag": Kind("error", "an iscrowd that is neither 0 nor 1", BOX_OUT),
    # what training copes with
    "exif-rotation": Kind("warning", "an image that EXIF rotates; the boxes are taken to belong to the rotated view"),
    "name-mismatch": Kind("warning", "an xml that names another image than its own name does; its own counts"),
    "box-without-area": Kind("warning", "zero or negative width or height; not trained on", BOX_OUT),
    "box-not-finite": Kind("warning", "a coordinate that is not a finite number; not trained on", BOX_OUT),
    "box-outside": Kind("warning", "a box wholly outside its image; not trained on", BOX_OUT),
    "box-partly-outside": Kind("warning", "more than a pixel of a box is outside its image; clipped", "clipped"),
    "duplicate-box": Kind("warning", "the same box and class twice on an image; trained on once", "one is kept"),
    "conflicting-box": Kind("warning", "the same box under two classes; trained on as both"),
    "bad-annotation-id": Kind("warning", "annotation ids that repeat or are not positive; renumbered", "renumbered"),
    "missing-fields": Kind("warning", "areas, crowd flags or image sizes that are missing; filled in", "filled in"),
    "number-as-text": Kind("warning", "ids or sizes written as text or as 640.0; read as integers", "integers"),
    "unprintable-name": Kind("warning", "a name with control characters or lone surrogates; shown and kept as escapes"),
    "polygon-label": Kind("warning", "a polygon instead of a box; its bounding box is used", "its bounding box"),
    "duplicate-image": Kind("warning", "the same picture twice in one split; it counts twice", "one is kept"),
    "image-without-boxes": Kind("warning", "an image without boxes; trained on as background"),
    "extreme-shape": Kind("warning", "an image so long and narrow that resizing leaves few pixels of its short side"),
    "crowded-image": Kind("warning", "more objects than the model has queries or the evaluation counts"),
    "unlisted-file": Kind("warning", "an image or label file that nothing refers to; not used", "left out"),
    "missing-split": Kind("warning", "a split that is named but not there; treated as if it were not named"),
    "unused-class": Kind("warning", "a class without boxes in a split; it cannot be learnt or measured there"),
    "similar-classes": Kind("warning", "class names that differ by case or spaces only; kept apart"),
    "group-class": Kind("warning", "a class without boxes that groups all others (Roboflow); dropped", "dropped"),
}  # fmt: skip


@dataclass(frozen=True)
class Finding:
    """One damaged record.

    Attributes:
        kind: key of ``KINDS``.
        where: file and record.
        message: what is wrong there, with the values.
        split: "train", "val", "test", or "" for the data set as a whole.
    """

    kind: str
    where: str
    message: str
    split: str = ""

    def __post_init__(self) -> None:
        assert self.kind in KINDS, self.kind

    @property
    def is_error(self) -> bool:
        """Whether the data set cannot be trained on as it is."""
        return KINDS[self.kind].severity == "error"

    def __str__(self) -> str:
        return printable(f"{self.where}: {self.message} [{self.kind}]")


class DatasetError(ValueError):
    """A data set that cannot be used as it is; the message names the file, the records and what to do.

    Attributes:
        findings: the same, record by record; empty where a setting is wrong and not the data.
    """

    def __init__(self, message: str, findings: Sequence[Finding] = ()) -> None:
        super().__init__(message)
        self.findings = tuple(findings)

    @classmethod
    def of(cls, kind: str, where: str, message: str) -> DatasetError:
        """An error of a single finding."""
        finding = Finding(kind, where, message)
        return cls(str(finding), (finding,))


def raise_errors(name: str, findings: Iterable[Finding]) -> None:
    """Raise ``DatasetError`` with all errors among the findings, the first ``MAX_REPORTED`` in the message."""
    errors = [f for f in findings if f.is_error]
    if not errors:
        return
    lines = [f"{name}: {count_of(len(errors), 'problem')}", *(f"  {f}" for f in errors[:MAX_REPORTED])]
    if len(errors) > MAX_REPORTED:
        lines.append(f"  ... and {len(errors) - MAX_REPORTED} more; detrex check-data lists all")
    raise DatasetError("\n".join(lines), errors)


def summarize(findings: Sequence[Finding], *, examples: int = 1) -> list[str]:
    """Lines of text: each kind found, errors first, with its count, its meaning and the first records."""
    lines = []
    counts = Counter(f.kind for f in findings)
    for kind in KINDS:  # errors come first in the table
        if not counts[kind]:
            continue
        lines.append(f"{kind} x {counts[kind]}: {KINDS[kind].meaning}")
        found = [f for f in findings if f.kind == kind]
        lines += [printable(f"    {f.split + ' ' if f.split else ''}{f.where}: {f.message}") for f in found[:examples]]
        if len(found) > examples:
            lines.append(f"    ... and {len(found) - examples} more")
    return lines
