"""Without gradients the definition works in place; that must show neither in its result nor in its arguments."""

from __future__ import annotations

import torch

from detrex_ops import ms_deform_attn_reference


def test_same_result_and_untouched_arguments():
    generator = torch.Generator().manual_seed(0)
    shapes = [(7, 5), (3, 4)]
    value = torch.randn(2, 47, 4, 8, generator=generator)
    locations = torch.rand(2, 9, 4, 2, 3, 2, generator=generator)
    weights = torch.rand(2, 9, 4, 2, 3, generator=generator)
    copies = [x.clone() for x in (value, locations, weights)]
    expected = ms_deform_attn_reference(value, shapes, locations, weights)
    with torch.no_grad():
        actual = ms_deform_attn_reference(value, shapes, locations, weights)
    assert torch.equal(actual, expected)
    assert all(torch.equal(a, b) for a, b in zip((value, locations, weights), copies, strict=True))
