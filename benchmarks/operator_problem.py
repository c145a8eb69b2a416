"""The sizes that the operator is measured at, and what each of them has to move and compute at least."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from detrex_ops.reference import sampling_locations

__all__ = ["SHAPES", "SIZES", "Problem", "Work", "make_problem", "work_of"]

SHAPES = [(100, 167), (50, 84), (25, 42), (13, 21)]  # strides 8, 16, 32, 64 at 800x1333
HEADS, CHANNELS, POINTS = 8, 32, 4

# Queries; None is an encoder's, one for each cell. ResNet-50 and Swin-L models differ in their decoders only: the neck
# brings either backbone's maps to the same strides and 256 channels.
SIZES = {
    "encoder": None,
    "decoder, R50": 300,
    "decoder, R50, H-DETR training": 300 + 1500,
    "decoder, Swin-L": 900,
    "decoder, Swin-L, training": 900 + 1500,
}


@dataclass(frozen=True)
class Problem:
    """Tensors of one size on the device, the value in any dtype, the rest in float32."""

    value: Tensor
    reference_points: Tensor
    offsets: Tensor
    logits: Tensor
    locations: Tensor
    weights: Tensor
    grad_output: Tensor

    def in_dtype(self, dtype: torch.dtype) -> Problem:
        """With the value and the gradient in another dtype."""
        fields = {**vars(self), "value": self.value.to(dtype), "grad_output": self.grad_output.to(dtype)}
        return Problem(**fields)


def make_problem(queries: int | None, batch: int, device: torch.device) -> Problem:
    """Positions are reference points plus offsets of a few cells, as in trained models. ``queries``: see SIZES."""
    generator = torch.Generator().manual_seed(0)
    tokens = sum(height * width for height, width in SHAPES)
    if queries is None:
        centres = [
            torch.stack(
                torch.meshgrid((torch.arange(w) + 0.5) / w, (torch.arange(h) + 0.5) / h, indexing="xy"), -1
            ).flatten(0, 1)
            for h, w in SHAPES
        ]
        points = torch.cat(centres).expand(batch, -1, -1)
    else:
        points = torch.rand(batch, queries, 2, generator=generator)
    count = points.shape[1]
    points = points[:, :, None].expand(-1, -1, len(SHAPES), -1)
    offsets = torch.randn(batch, count, HEADS, len(SHAPES), POINTS, 2, generator=generator) * 2.5
    logits = torch.randn(batch, count, HEADS, len(SHAPES), POINTS, generator=generator)
    tensors = {
        "value": torch.randn(batch, tokens, HEADS, CHANNELS, generator=generator),
        "reference_points": points,
        "offsets": offsets,
        "logits": logits,
        "locations": sampling_locations(points, offsets, SHAPES),
        "weights": logits.flatten(3).softmax(-1).view_as(logits),
        "grad_output": torch.randn(batch, count, HEADS * CHANNELS, generator=generator),
    }
    return Problem(**{name: tensor.contiguous().to(device) for name, tensor in tensors.items()})


@dataclass(frozen=True)
class Work:
    """What no implementation can avoid.

    Attributes:
        flop: multiplications and additions on channels; positions and corner weights not counted.
        corner_bytes: rows of value (backward: and of its gradient, read and written) that the samples' corners ask for.
        distinct_bytes: every tensor read or written once; of the value those rows that a corner asks for.
    """

    flop: float
    corner_bytes: float
    distinct_bytes: float


def work_of(problem: Problem) -> dict[str, Work]:
    """The work of each pass."""
    row = CHANNELS * problem.value.element_size()
    samples = problem.weights.numel()
    inputs = 4 * (problem.locations.numel() + problem.weights.numel())
    output = problem.grad_output.numel() * problem.grad_output.element_size()
    value, gradient = _distinct_rows(problem) * row, problem.value.numel() * problem.value.element_size()
    forward = Work(samples * 4 * 2 * CHANNELS, samples * 4 * row, value + inputs + output)
    # Backward: a dot product and a scaled addition for each corner; the gradient of the value is written as a whole.
    backward = Work(2 * forward.flop, 3 * forward.corner_bytes, value + gradient + 2 * inputs + output)
    both = Work(*(a + b for a, b in zip(vars(forward).values(), vars(backward).values(), strict=True)))
    return {"forward": forward, "forward + backward": both}


def _distinct_rows(problem: Problem) -> int:
    """How many rows of the value lie at a corner of some sample."""
    batch, tokens, heads, _ = problem.value.shape
    touched = torch.zeros(batch * heads, tokens, dtype=torch.bool, device=problem.value.device)
    first = 0
    for level, (height, width) in enumerate(SHAPES):
        size = torch.tensor([width, height], device=touched.device)
        corner = (problem.locations[:, :, :, level] * size - 0.5).floor().long()
        for x, y in ((0, 0), (1, 0), (0, 1), (1, 1)):
            column, line = corner[..., 0] + x, corner[..., 1] + y
            inside = (column >= 0) & (column < width) & (line >= 0) & (line < height)
            rows = (first + line * width + column).transpose(1, 2).reshape(batch * heads, -1)
            inside = inside.transpose(1, 2).reshape(batch * heads, -1)
            image = torch.arange(batch * heads, device=touched.device)[:, None].expand_as(rows)
            touched[image[inside], rows[inside]] = True
        first += height * width
    return int(touched.sum())
