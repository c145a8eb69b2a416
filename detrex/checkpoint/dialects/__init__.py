"""Foreign checkpoint layouts: each is a table of rows that rename tensors to our names and back."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from .backbones import RESNET, SWIN, SWIN_TIMM
from .export import from_ours
from .hugging_face import HUGGING_FACE
from .official import OFFICIAL
from .openmmlab import DETREX_ZOO, MMDETECTION_2, MMDETECTION_3
from .ours import our_constants
from .rename import Dialect, Row, Translation, to_ours

__all__ = [
    "BACKBONES",
    "DETECTORS",
    "DIALECTS",
    "Dialect",
    "Row",
    "Translation",
    "detect_dialect",
    "from_ours",
    "our_constants",
    "to_ours",
]

DETECTORS: tuple[Dialect, ...] = (OFFICIAL, DETREX_ZOO, MMDETECTION_2, MMDETECTION_3, HUGGING_FACE)
BACKBONES: tuple[Dialect, ...] = (RESNET, SWIN, SWIN_TIMM)
DIALECTS = DETECTORS + BACKBONES


def detect_dialect(state: Mapping[str, Tensor]) -> Dialect | None:
    """The dialect of a file's names; None if they are our own or of no dialect we know."""
    return next((dialect for dialect in DIALECTS if dialect.matches(state)), None)
