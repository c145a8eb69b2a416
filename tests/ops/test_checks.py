"""Every wrong call has its own exact message."""

from __future__ import annotations

import pytest
import torch

from detrex_ops import ms_deform_attn, ms_deform_attn_fused

from .conftest import make_case


def call(**changes):
    case = make_case(levels="odd", queries=3, channels=4, points=2)
    arguments = {
        "value": case.value,
        "shapes": case.shapes,
        "samples": case.samples,
        "weights": case.weights,
        **changes,
    }
    return ms_deform_attn(*arguments.values())


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"shapes": torch.tensor([[7, 1], [1, 5], [3, 3]])}, TypeError, "must be a sequence of .height, width. pairs"),
        ({"shapes": []}, ValueError, "spatial_shapes is empty"),
        ({"shapes": [(7, 1), (1, 5), (3,)]}, ValueError, r"spatial_shapes\[2\] must be .height, width., got .3,."),
        ({"shapes": [(7, 1), (1, 5), (0, 3)]}, ValueError, r"spatial_shapes\[2\] must be positive, got .0, 3."),
        ({"shapes": [(7, 1), (1, 5), (3, 4)]}, ValueError, "add up to 24 tokens, but value has 21"),
        ({"shapes": [(21, 1)]}, ValueError, r"sampling_locations has 3 levels .axis 3., expected 1"),
        ({"value": torch.zeros(2, 21, 8)}, ValueError, "value must have shape .batch, tokens, heads, channels"),
        ({"value": torch.zeros(2, 21, 2, 0)}, ValueError, "at least one head and one channel"),
        ({"value": torch.zeros(3, 21, 2, 4)}, ValueError, r"sampling_locations has 2 batch .axis 0., expected 3"),
        ({"value": torch.zeros(2, 21, 3, 4)}, ValueError, r"sampling_locations has 2 heads .axis 2., expected 3"),
        ({"value": torch.zeros(2, 21, 2, 4, dtype=torch.int64)}, TypeError, "value must be float32.*got torch.int64"),
        (
            {"value": torch.zeros(2, 21, 2, 4, dtype=torch.float64)},
            TypeError,
            "sampling_locations must be torch.float64",
        ),
        ({"value": torch.zeros(2, 21, 2, 4, device="meta")}, ValueError, "sampling_locations is on cpu, .* on meta"),
        ({"samples": torch.zeros(2, 3, 2, 3, 2)}, ValueError, "sampling_locations must have shape"),
        ({"samples": torch.zeros(2, 3, 2, 3, 0, 2)}, ValueError, "at least one point"),
        ({"weights": torch.zeros(2, 3, 2, 3, 1)}, ValueError, "attention_weights must have the shape of"),
        ({"weights": torch.zeros(2, 3, 2, 3, 2, dtype=torch.float16)}, TypeError, "attention_weights must be"),
    ],
)
def test_message(changes, error, message):
    with pytest.raises(error, match=message):
        call(**changes)


@pytest.mark.parametrize(
    ("points", "message"),
    [
        (torch.zeros(2, 3, 3, 3), "must have shape .batch, queries, levels, 2 or 4."),
        (torch.zeros(2, 4, 3, 2), "reference_points has 4 queries"),
        (torch.zeros(2, 3, 1, 2), "reference_points has 1 levels"),
    ],
)
def test_message_about_reference_points(points, message):
    case = make_case(levels="odd", queries=3, channels=4, points=2, reference_size=2)
    with pytest.raises(ValueError, match=message):
        ms_deform_attn_fused(case.value, case.shapes, points, case.samples, case.weights)
