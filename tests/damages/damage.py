"""What a kind of damage is, and edits that several of them share."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Damage:
    """``apply(root)`` breaks a data set of ``layout``; a finding of ``kind`` that holds ``text`` must follow."""

    layout: str
    kind: str
    text: str
    apply: Callable[[Path], None]


DAMAGES: list[Damage] = []


def damage(layout: str, kind: str, text: str):
    def register(function: Callable[[Path], None]) -> Callable[[Path], None]:
        DAMAGES.append(Damage(layout, kind, text, function))
        return function

    return register


def edit_json(root: Path, change: Callable[[dict], None], split: str = "train") -> None:
    path = root / "annotations" / f"instances_{split}.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def edit_text(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
