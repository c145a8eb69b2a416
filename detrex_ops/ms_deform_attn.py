"""The public functions: check the arguments, then run the operator, or its definition where that is the backend.

Legend: B batch, S tokens of all levels, N heads, D channels per head, Q queries, L levels, P points per level and head,
R 2 (reference points) or 4 (reference boxes).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from detrex_ops import library  # noqa: F401 - registers the operators
from detrex_ops.backends import implementation
from detrex_ops.checks import check_reference_points, check_samples, check_value, normalise_spatial_shapes
from detrex_ops.kernels import REFERENCE
from detrex_ops.reference import is_transformed, ms_deform_attn_fused_reference, ms_deform_attn_reference


def ms_deform_attn(
    value_BSND: Tensor,
    spatial_shapes: Sequence[tuple[int, int]],
    sampling_locations_BQNLP2: Tensor,
    attention_weights_BQNLP: Tensor,
) -> Tensor:
    """Multi-scale deformable attention (Zhu et al., "Deformable DETR", section 4.1, equation 3, without projections).

    Each query reads ``L * P`` bilinear samples per head, zero outside the level, and adds them up with its weights.

    Args:
        value_BSND: (B, S, N, D), the levels one after the other, each row by row; float32, float64, float16, bfloat16.
        spatial_shapes: L pairs (height, width) of ints, whose products add up to S.
        sampling_locations_BQNLP2: (B, Q, N, L, P, 2), x and y in [0, 1] over the padded level. Positions outside read
            zeros; a NaN or infinity makes its query's output NaN.
        attention_weights_BQNLP: (B, Q, N, L, P). Like the locations in the value's dtype, or float32 where that has
            16 bits (locations in 16 bits are coarser than a cell of a large level).

    Returns:
        (B, Q, N * D) in the value's dtype; accumulated in float32 where that has 16 bits.

    Raises:
        ValueError: shapes, levels or devices that do not fit together.
        TypeError: dtypes that do not, or ``spatial_shapes`` given as a tensor.
    """
    shapes = normalise_spatial_shapes(spatial_shapes)
    check_value(value_BSND, shapes)
    names = ("sampling_locations", "attention_weights")
    check_samples(value_BSND, len(shapes), sampling_locations_BQNLP2, attention_weights_BQNLP, names=names)
    tensors = (sampling_locations_BQNLP2, attention_weights_BQNLP)
    if _runs_reference(value_BSND):
        return ms_deform_attn_reference(value_BSND, shapes, *tensors)
    return torch.ops.detrex_ops.ms_deform_attn(value_BSND, [size for shape in shapes for size in shape], *tensors)


def ms_deform_attn_fused(
    value_BSND: Tensor,
    spatial_shapes: Sequence[tuple[int, int]],
    reference_points_BQLR: Tensor,
    sampling_offsets_BQNLP2: Tensor,
    attention_logits_BQNLP: Tensor,
) -> Tensor:
    """:func:`ms_deform_attn` from the raw projections: neither locations nor normalised weights are materialised.

    Args:
        value_BSND: as in :func:`ms_deform_attn`.
        spatial_shapes: as in :func:`ms_deform_attn`.
        reference_points_BQLR: (B, Q, L, 2) points x, y, or (B, Q, L, 4) boxes cx, cy, w, h, in [0, 1].
        sampling_offsets_BQNLP2: (B, Q, N, L, P, 2), in cells of the level beside points, in units of ``w / (2 P)`` and
            ``h / (2 P)`` beside boxes (Deformable DETR, appendix A.4).
        attention_logits_BQNLP: (B, Q, N, L, P), normalised by a softmax over the L * P samples of a query and head.

    Returns, Raises: as :func:`ms_deform_attn`.
    """
    shapes = normalise_spatial_shapes(spatial_shapes)
    check_value(value_BSND, shapes)
    names = ("sampling_offsets", "attention_logits")
    check_samples(value_BSND, len(shapes), sampling_offsets_BQNLP2, attention_logits_BQNLP, names=names)
    check_reference_points(value_BSND, len(shapes), reference_points_BQLR, sampling_offsets_BQNLP2)
    tensors = (reference_points_BQLR, sampling_offsets_BQNLP2, attention_logits_BQNLP)
    if _runs_reference(value_BSND):
        return ms_deform_attn_fused_reference(value_BSND, shapes, *tensors)
    return torch.ops.detrex_ops.ms_deform_attn_fused(value_BSND, [size for shape in shapes for size in shape], *tensors)


def _runs_reference(value: Tensor) -> bool:
    """Exports keep standard operators, and transforms (``torch.func``, forward mode) differentiate and batch them.

    Under torch.compile the operator itself decides, when it runs.
    """
    if value.device.type not in ("cpu", "cuda"):
        return True
    if torch.onnx.is_in_onnx_export() or _is_exporting():
        return True
    if torch.compiler.is_compiling():
        return False
    return is_transformed() or implementation(value.device) is REFERENCE


def _is_exporting() -> bool:
    """Whether torch.export traces. torch.compiler.is_exporting() says yes under torch.compile as well (torch 2.11)."""
    flag = getattr(torch.compiler, "_is_exporting_flag", None)
    if flag is None:  # torch 2.6
        return torch.compiler.is_compiling() and not torch.compiler.is_dynamo_compiling()
    return flag
