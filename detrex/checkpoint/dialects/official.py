"""The official Deformable-DETR and H-Deformable-DETR repositories, which share their names."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from .backbones import classic_resnet, swin
from .ours import DECODER, ENCODER, PROPOSALS, QUERIES, SHARED_HEADS, head_rows, neck_rows
from .rename import Dialect, Row, count

__all__ = ["OFFICIAL"]

T = "transformer."
TWO_STAGE = f"{T}enc_output.weight"


def _constants(state: Mapping[str, Tensor]) -> dict[str, int]:
    return {
        "layers": count(state, f"{DECODER}linear1.weight"),
        "inputs": count(state, "input_proj.{i}.0.weight", kernel_size=1),
    }


OFFICIAL = Dialect(
    name="official",
    signature=(f"{ENCODER}linear1.weight", "input_proj.{i}.0.weight"),
    constants=_constants,
    shared=SHARED_HEADS,
    rows=(
        *classic_resnet("backbone.0.body."),
        *swin("backbone.0.body."),
        *neck_rows("input_proj."),
        Row(f"{T}level_embed", f"{T}level_embeds"),
        Row(f"{ENCODER}self_attn.{{rest}}", f"{ENCODER}self_attn.{{rest}}"),
        Row(f"{ENCODER}norm1.{{p}}", f"{ENCODER}self_attn_norm.{{p}}"),
        Row(f"{ENCODER}linear{{j}}.{{p}}", f"{ENCODER}ffn.linear{{j}}.{{p}}"),
        Row(f"{ENCODER}norm2.{{p}}", f"{ENCODER}ffn_norm.{{p}}"),
        Row(f"{DECODER}self_attn.{{rest}}", f"{DECODER}self_attn.{{rest}}"),
        Row(f"{DECODER}cross_attn.{{rest}}", f"{DECODER}cross_attn.{{rest}}"),
        # Not in the order in which they are applied.
        Row(f"{DECODER}norm1.{{p}}", f"{DECODER}cross_attn_norm.{{p}}"),
        Row(f"{DECODER}norm2.{{p}}", f"{DECODER}self_attn_norm.{{p}}"),
        Row(f"{DECODER}norm3.{{p}}", f"{DECODER}ffn_norm.{{p}}"),
        Row(f"{DECODER}linear{{j}}.{{p}}", f"{DECODER}ffn.linear{{j}}.{{p}}"),
        # Content and position for one-stage; with mixed query selection content alone.
        Row("query_embed.weight", f"{QUERIES}content.weight", beside=TWO_STAGE),
        Row("query_embed.weight", f"{QUERIES}embedding.weight"),
        Row(f"{T}reference_points.{{p}}", f"{QUERIES}reference_points.{{p}}"),
        Row(f"{T}enc_output.{{p}}", f"{PROPOSALS}memory_proj.{{p}}"),
        Row(f"{T}enc_output_norm.{{p}}", f"{PROPOSALS}memory_norm.{{p}}"),
        Row(f"{T}pos_trans.{{p}}", f"{QUERIES}pos_trans.{{p}}"),
        Row(f"{T}pos_trans_norm.{{p}}", f"{QUERIES}pos_trans_norm.{{p}}"),
        *head_rows("class_embed.", "bbox_embed."),
        *head_rows(f"{T}decoder.class_embed.", f"{T}decoder.bbox_embed.", aliases=True),
    ),
)
