"""Cases for the operator: small problems of every kind, seeded."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

LEVELS = {
    "pyramid": [(12, 17), (6, 9), (3, 5), (2, 3)],
    "odd": [(7, 1), (1, 5), (3, 3)],
    "single cell": [(1, 1)],
    "dyadic": [(8, 16), (2, 4), (1, 1)],
    "five": [(5, 4), (4, 4), (3, 2), (2, 1), (1, 1)],
}


@dataclass(frozen=True)
class Case:
    """Arguments of the plain (reference_points None) or the fused operator, and a gradient of its output."""

    value: Tensor
    shapes: list[tuple[int, int]]
    reference_points: Tensor | None
    samples: Tensor
    weights: Tensor
    grad_output: Tensor

    @property
    def flat_shapes(self) -> list[int]:
        return [size for shape in self.shapes for size in shape]

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        points = () if self.reference_points is None else (self.reference_points,)
        return (self.value, *points, self.samples, self.weights)

    def requiring_grad(self) -> Case:
        return self.map(lambda tensor: tensor.detach().clone().requires_grad_())

    def map(self, function) -> Case:
        changed = {
            name: function(getattr(self, name))
            for name in ("value", "reference_points", "samples", "weights")
            if getattr(self, name) is not None
        }
        return replace(self, **changed)


def make_case(
    *,
    levels: str = "pyramid",
    batch: int = 2,
    queries: int = 30,
    heads: int = 2,
    channels: int = 32,
    points: int = 4,
    dtype: torch.dtype = torch.float32,
    reference_size: int = 0,
    seed: int = 0,
) -> Case:
    """Samples reach outside the levels on all sides, where corners are cut off one by one."""
    generator = torch.Generator().manual_seed(seed)
    shapes = LEVELS[levels]
    wide = torch.float64 if dtype == torch.float64 else torch.float32

    def normal(*size: int) -> Tensor:
        return torch.randn(size, generator=generator, dtype=wide)

    tokens = sum(height * width for height, width in shapes)
    samples = normal(batch, queries, heads, len(shapes), points, 2)
    weights = normal(batch, queries, heads, len(shapes), points)
    reference_points = None
    if reference_size == 0:
        samples = torch.rand(samples.shape, generator=generator, dtype=wide) * 1.5 - 0.25
    else:
        samples = samples * 2
        size = (batch, queries, len(shapes), reference_size)
        reference_points = torch.rand(size, generator=generator, dtype=wide)
    return Case(
        value=normal(batch, tokens, heads, channels).to(dtype),
        shapes=shapes,
        reference_points=reference_points,
        samples=samples,
        weights=weights,
        grad_output=normal(batch, queries, heads * channels).to(dtype),
    )


@pytest.fixture
def small_case() -> Case:
    return make_case(levels="odd", queries=3, channels=4, points=2, dtype=torch.float64)
