"""Multi-scale deformable attention for CPUs and GPUs. Needs torch alone."""

from __future__ import annotations

from detrex_ops.backends import backend
from detrex_ops.extension import build_report
from detrex_ops.ms_deform_attn import ms_deform_attn, ms_deform_attn_fused
from detrex_ops.reference import ms_deform_attn_fused_reference, ms_deform_attn_reference

__all__ = [
    "backend",
    "build_report",
    "ms_deform_attn",
    "ms_deform_attn_fused",
    "ms_deform_attn_fused_reference",
    "ms_deform_attn_reference",
]
