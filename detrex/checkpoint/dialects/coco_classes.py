"""COCO's classes: 80 of them, numbered by ids up to 90 with gaps, for which the official heads have 91 rows."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

__all__ = ["NUM_IDS", "NUM_USED", "USED_COCO_IDS", "ClassRows", "insert_rows", "select_rows"]

NUM_IDS = 91
UNUSED_COCO_IDS = frozenset({0, 12, 26, 29, 30, 45, 66, 68, 69, 71, 83})
USED_COCO_IDS = tuple(i for i in range(NUM_IDS) if i not in UNUSED_COCO_IDS)
NUM_USED = len(USED_COCO_IDS)
# The logit of a class that does not exist: its score is zero even in float16.
NEVER = -100.0

# Which rows are the classes': those of the ids, or the first, in a head whose row 0 is objectness and the rest unused.
ClassRows = Literal["gather", "slice"]


def select_rows(rows: Tensor, how: ClassRows) -> Tensor:
    """80 rows of 91: (91, ...) to (80, ...)."""
    return rows[_ids(how)]


def insert_rows(rows: Tensor, how: ClassRows) -> Tensor:
    """91 rows of 80, the inverse of :func:`select_rows`; the rows of no class give a score of zero.

    Args:
        rows: weight (80, C) or bias (80,) of a classifier.
        how: see ``ClassRows``.
    """
    result = rows.new_full((NUM_IDS, *rows.shape[1:]), NEVER if rows.ndim == 1 else 0.0)
    result[_ids(how)] = rows
    return result


def _ids(how: ClassRows) -> Tensor:
    return torch.tensor(USED_COCO_IDS) if how == "gather" else torch.arange(NUM_USED)
