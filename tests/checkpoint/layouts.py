"""Foreign layouts: the names and shapes of published files, and state dicts that have them.

``data/<source>.txt`` holds, for each variant, lines of a name and a shape; ``{0-5}`` and ``{0,2,4}`` stand for several
names. A state dict made of them takes no memory: each tensor is one number, another for each name, seen in its shape.
"""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import torch
from torch import Tensor

DATA = Path(__file__).parent / "data"


def layout(source: str, variant: str) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every tensor in a file."""
    sections = re.split(r"^\[(.+)\]\n", (DATA / f"{source}.txt").read_text(), flags=re.MULTILINE)[1:]
    lines = dict(zip(sections[::2], sections[1::2], strict=True))
    shapes = {}
    for line in (lines["all"] + lines[variant]).split("\n"):
        if line:
            pattern, size = line.split()
            shape = () if size == "scalar" else tuple(int(n) for n in size.split("x"))
            shapes |= dict.fromkeys(_expand(pattern), shape)
    return shapes


def _expand(pattern: str) -> list[str]:
    choices = []
    for part in re.split(r"(\{[^}]*\})", pattern):
        bounds = re.fullmatch(r"\{(\d+)-(\d+)\}", part)
        if bounds:
            choices.append([str(n) for n in range(int(bounds[1]), int(bounds[2]) + 1)])
        else:
            choices.append(part.strip("{}").split(","))
    return ["".join(choice) for choice in itertools.product(*choices)]


def traced_state(shapes: dict[str, tuple[int, ...]], *, shared_heads: bool = False) -> dict[str, Tensor]:
    """Tensors of these shapes, each filled with a number of its own; names that repeat another have the same.

    Args:
        shapes: of :func:`layout`.
        shared_heads: whether the layers of the decoder have one head, as without box refinement.
    """
    numbers: dict[str, int] = {}
    state = {}
    for name, shape in shapes.items():
        original = re.sub(r"^(transformer|model)\.decoder\.(?=class_embed|bbox_embed)", "", name)
        if shared_heads:
            original = re.sub(r"(class_embed|bbox_embed|cls_branches|reg_branches)\.\d+", r"\1", original)
        number = numbers.setdefault(original, len(numbers) + 1)
        state[name] = torch.tensor(float(number)).expand(shape)
    return state


def published_state(source: str, variant: str) -> dict[str, Tensor]:
    """A traced state in the layout of a published file."""
    return traced_state(layout(source, variant), shared_heads=variant.startswith(("multi_scale", "single_scale")))
