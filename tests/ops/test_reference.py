"""The definition against a loop in plain Python, and its derivatives."""

from __future__ import annotations

import math

import pytest
import torch

from detrex_ops import ms_deform_attn_fused_reference, ms_deform_attn_reference

from .conftest import make_case


def attend_by_loops(case) -> torch.Tensor:
    batch, queries, heads, levels, points, _ = case.samples.shape
    output = torch.zeros(batch, queries, heads, case.value.shape[-1], dtype=torch.float64)
    starts = [sum(h * w for h, w in case.shapes[:level]) for level in range(levels)]
    for b, q, n, level, p in torch.cartesian_prod(*map(torch.arange, (batch, queries, heads, levels, points))).tolist():
        height, width = case.shapes[level]
        x = case.samples[b, q, n, level, p, 0].item() * width - 0.5
        y = case.samples[b, q, n, level, p, 1].item() * height - 0.5
        for row in (math.floor(y), math.floor(y) + 1):
            for column in (math.floor(x), math.floor(x) + 1):
                if 0 <= row < height and 0 <= column < width:
                    share = (1 - abs(y - row)) * (1 - abs(x - column)) * case.weights[b, q, n, level, p].item()
                    output[b, q, n] += share * case.value[b, starts[level] + row * width + column, n].double()
    return output.flatten(2)


@pytest.mark.parametrize("levels", ["pyramid", "odd", "single cell"])
def test_agrees_with_plain_loops(levels):
    case = make_case(levels=levels, queries=4, channels=3, points=2, dtype=torch.float64)
    actual = ms_deform_attn_reference(case.value, case.shapes, case.samples, case.weights)
    torch.testing.assert_close(actual, attend_by_loops(case), rtol=1e-10, atol=1e-10)


def test_first_and_second_derivatives(small_case):
    case = small_case.requiring_grad()

    def run(value, samples, weights):
        return ms_deform_attn_reference(value, case.shapes, samples, weights)

    assert torch.autograd.gradcheck(run, case.tensors)
    assert torch.autograd.gradgradcheck(run, case.tensors)


@pytest.mark.parametrize("reference_size", [2, 4])
def test_fused_is_softmax_and_locations(reference_size):
    case = make_case(queries=5, reference_size=reference_size, dtype=torch.float64)
    scale = torch.tensor([(width, height) for height, width in case.shapes], dtype=torch.float64)
    points = case.reference_points[:, :, None, :, None]
    if reference_size == 2:
        locations = points + case.samples / scale[:, None]
    else:
        locations = points[..., :2] + case.samples / case.samples.shape[4] * points[..., 2:] * 0.5
    weights = case.weights.flatten(3).softmax(-1).view_as(case.weights)
    expected = ms_deform_attn_reference(case.value, case.shapes, locations, weights)
    actual = ms_deform_attn_fused_reference(case.value, case.shapes, *case.tensors[1:])
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)
