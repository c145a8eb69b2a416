"""Files that ``DeformableDetrForObjectDetection.save_pretrained`` of transformers writes, any version."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from .backbones import classic_resnet, hugging_face_resnet
from .ours import DECODER, ENCODER, PROPOSALS, QUERIES, SHARED_HEADS, head_rows, neck_rows
from .rename import Dialect, Row, count

__all__ = ["HUGGING_FACE"]

THEIR_ENCODER, THEIR_DECODER = "model.encoder.layers.{i}.", "model.decoder.layers.{i}."
THEIR_BACKBONE = "model.backbone.conv_encoder.model."


def _constants(state: Mapping[str, Tensor]) -> dict[str, int]:
    return {
        "layers": count(state, "model.decoder.layers.{i}.fc1.weight"),
        "inputs": count(state, "model.input_proj.{i}.0.weight", kernel_size=1),
    }


HUGGING_FACE = Dialect(
    name="Hugging Face",
    signature=("model.encoder.layers.{i}.fc1.weight", "model.input_proj.{i}.0.weight"),
    constants=_constants,
    shared=SHARED_HEADS,
    rows=(
        *classic_resnet(THEIR_BACKBONE),
        *hugging_face_resnet(THEIR_BACKBONE),
        *neck_rows("model.input_proj."),
        Row("model.level_embed", "transformer.level_embeds"),
        Row(f"{THEIR_ENCODER}self_attn.{{rest}}", f"{ENCODER}self_attn.{{rest}}"),
        Row(f"{THEIR_ENCODER}self_attn_layer_norm.{{p}}", f"{ENCODER}self_attn_norm.{{p}}"),
        Row(f"{THEIR_ENCODER}fc{{j}}.{{p}}", f"{ENCODER}ffn.linear{{j}}.{{p}}"),
        Row(f"{THEIR_ENCODER}final_layer_norm.{{p}}", f"{ENCODER}ffn_norm.{{p}}"),
        Row(f"{THEIR_DECODER}self_attn.q_proj.{{p}}", f"{DECODER}self_attn.in_proj_{{p}}", part=(0, 3)),
        Row(f"{THEIR_DECODER}self_attn.k_proj.{{p}}", f"{DECODER}self_attn.in_proj_{{p}}", part=(1, 3)),
        Row(f"{THEIR_DECODER}self_attn.v_proj.{{p}}", f"{DECODER}self_attn.in_proj_{{p}}", part=(2, 3)),
        Row(f"{THEIR_DECODER}self_attn.out_proj.{{p}}", f"{DECODER}self_attn.out_proj.{{p}}"),
        Row(f"{THEIR_DECODER}self_attn_layer_norm.{{p}}", f"{DECODER}self_attn_norm.{{p}}"),
        Row(f"{THEIR_DECODER}encoder_attn.{{rest}}", f"{DECODER}cross_attn.{{rest}}"),
        Row(f"{THEIR_DECODER}encoder_attn_layer_norm.{{p}}", f"{DECODER}cross_attn_norm.{{p}}"),
        Row(f"{THEIR_DECODER}fc{{j}}.{{p}}", f"{DECODER}ffn.linear{{j}}.{{p}}"),
        Row(f"{THEIR_DECODER}final_layer_norm.{{p}}", f"{DECODER}ffn_norm.{{p}}"),
        Row("model.query_position_embeddings.weight", f"{QUERIES}embedding.weight"),
        Row("model.reference_points.{p}", f"{QUERIES}reference_points.{{p}}"),
        Row("model.enc_output.{p}", f"{PROPOSALS}memory_proj.{{p}}"),
        Row("model.enc_output_norm.{p}", f"{PROPOSALS}memory_norm.{{p}}"),
        Row("model.pos_trans.{p}", f"{QUERIES}pos_trans.{{p}}"),
        Row("model.pos_trans_norm.{p}", f"{QUERIES}pos_trans_norm.{{p}}"),
        *head_rows("class_embed.", "bbox_embed."),
        *head_rows("model.decoder.class_embed.", "model.decoder.bbox_embed.", aliases=True),
    ),
)
