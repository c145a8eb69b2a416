"""The signature that the operator has in the official repositories, detrex and mmcv: five tensors and a step."""

from __future__ import annotations

from torch import Tensor

import detrex_ops

__all__ = ["MSDeformAttnFunction", "MultiScaleDeformableAttnFunction", "ms_deform_attn"]


def ms_deform_attn(
    value: Tensor,
    value_spatial_shapes: Tensor,
    value_level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    im2col_step: int = 64,
) -> Tensor:
    """Multi-scale deformable attention for code that passes the sizes of levels as tensors.

    The same as :func:`detrex_ops.ms_deform_attn`. The sizes are read from their device, which waits for it; new code
    passes them as ints.

    Args:
        value: (B, S, N, D), the levels one after the other.
        value_spatial_shapes: (L, 2), height and width of the levels, integers.
        value_level_start_index: (L,), the first token of each level, integers.
        sampling_locations: (B, Q, N, L, P, 2), x and y in [0, 1].
        attention_weights: (B, Q, N, L, P).
        im2col_step: has no effect; the classic kernel cut the batch by it.

    Returns:
        (B, Q, N * D).

    Raises:
        ValueError: a start index that is not the sum of the sizes before it, and what
            :func:`detrex_ops.ms_deform_attn` refuses. TypeError: as there.
    """
    shapes = [(int(height), int(width)) for height, width in value_spatial_shapes.tolist()]
    starts = [sum(h * w for h, w in shapes[:level]) for level in range(len(shapes))]
    if value_level_start_index.tolist() != starts:
        raise ValueError(
            f"value_level_start_index is {value_level_start_index.tolist()}, but levels of {shapes} start at {starts}"
        )
    return detrex_ops.ms_deform_attn(value, shapes, sampling_locations, attention_weights)


class MSDeformAttnFunction:
    """Has the ``apply`` of the official repositories' autograd function; gradients are the operator's own."""

    apply = staticmethod(ms_deform_attn)


MultiScaleDeformableAttnFunction = MSDeformAttnFunction  # the name in detrex and mmcv
