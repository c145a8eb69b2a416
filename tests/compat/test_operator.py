"""The classic signature of the operator."""

from __future__ import annotations

import pytest
import torch

from detrex.compat import MSDeformAttnFunction, MultiScaleDeformableAttnFunction, ms_deform_attn
from detrex_ops import ms_deform_attn_reference

SHAPES = [(4, 6), (2, 3)]


def arguments():
    value = torch.randn(2, 30, 2, 4, requires_grad=True)
    locations = torch.rand(2, 5, 2, 2, 3, 2, requires_grad=True)
    weights = torch.rand(2, 5, 2, 2, 3, requires_grad=True)
    return value, torch.tensor(SHAPES), torch.tensor([0, 24]), locations, weights


@pytest.mark.parametrize(
    "function", [ms_deform_attn, MSDeformAttnFunction.apply, MultiScaleDeformableAttnFunction.apply]
)
def test_values_and_gradients_are_the_definitions(function):
    value, shapes, starts, locations, weights = arguments()
    tensors = (value, locations, weights)
    output = function(value, shapes, starts, locations, weights, 64)
    expected = ms_deform_attn_reference(value, SHAPES, locations, weights)
    assert output.shape == (2, 5, 8)
    torch.testing.assert_close(output, expected)
    cotangent = torch.randn_like(output)
    ours, theirs = (torch.autograd.grad(x, tensors, cotangent) for x in (output, expected))
    torch.testing.assert_close(ours, theirs)


def test_start_indices_that_contradict_the_sizes():
    value, shapes, _, locations, weights = arguments()
    with pytest.raises(ValueError, match=r"value_level_start_index is \[0, 6\], but levels of .* start at \[0, 24\]"):
        ms_deform_attn(value, shapes, torch.tensor([0, 6]), locations, weights)
