"""Files that ``DeformableDetrForObjectDetection.save_pretrained`` of transformers writes, any version."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from .backbones import classic_resnet, hugging_face_resnet
from .rename import Dialect, Row, count

__all__ = ["HUGGING_FACE"]

ENCODER, OUR_ENCODER = "model.encoder.layers.{i}.", "transformer.encoder.layers.{i}."
DECODER, OUR_DECODER = "model.decoder.layers.{i}.", "transformer.decoder.layers.{i}."
BACKBONE = "model.backbone.conv_encoder.model."
PROPOSALS, HEAD = "transformer.queries.proposals.", "transformer.decoder.heads.{i}."


def _head_rows(prefix: str, *, alias: bool) -> tuple[Row, ...]:
    """One head for each decoder layer, then that of the proposals, whose row 0 is objectness."""
    layers = "{layers}"
    return (
        Row(f"{prefix}class_embed.{layers}.{{p}}", f"{PROPOSALS}head.class_embed.{{p}}", classes="slice", alias=alias),
        Row(f"{prefix}class_embed.{{i}}.{{p}}", f"{HEAD}class_embed.{{p}}", classes="gather", alias=alias),
        Row(f"{prefix}bbox_embed.{layers}.{{rest}}", f"{PROPOSALS}head.bbox_embed.{{rest}}", alias=alias),
        Row(f"{prefix}bbox_embed.{{i}}.{{rest}}", f"{HEAD}bbox_embed.{{rest}}", alias=alias),
    )


def _constants(state: Mapping[str, Tensor]) -> dict[str, int]:
    return {
        "layers": count(state, "model.decoder.layers.{i}.fc1.weight"),
        "inputs": count(state, "model.input_proj.{i}.0.weight", kernel_size=1),
    }


HUGGING_FACE = Dialect(
    name="Hugging Face",
    signature=("model.encoder.layers.{i}.fc1.weight", "model.input_proj.{i}.0.weight"),
    constants=_constants,
    shared=(f"{HEAD}class_embed.{{p}}", f"{HEAD}bbox_embed.{{rest}}"),
    rows=(
        *classic_resnet(BACKBONE),
        *hugging_face_resnet(BACKBONE),
        Row("model.input_proj.{i}.0.{p}", "neck.extra_convs.{i-inputs}.conv.{p}"),
        Row("model.input_proj.{i}.1.{p}", "neck.extra_convs.{i-inputs}.norm.{p}"),
        Row("model.input_proj.{i}.0.{p}", "neck.convs.{i}.conv.{p}"),
        Row("model.input_proj.{i}.1.{p}", "neck.convs.{i}.norm.{p}"),
        Row("model.level_embed", "transformer.level_embeds"),
        Row(f"{ENCODER}self_attn.{{rest}}", f"{OUR_ENCODER}self_attn.{{rest}}"),
        Row(f"{ENCODER}self_attn_layer_norm.{{p}}", f"{OUR_ENCODER}self_attn_norm.{{p}}"),
        Row(f"{ENCODER}fc{{j}}.{{p}}", f"{OUR_ENCODER}ffn.linear{{j}}.{{p}}"),
        Row(f"{ENCODER}final_layer_norm.{{p}}", f"{OUR_ENCODER}ffn_norm.{{p}}"),
        Row(f"{DECODER}self_attn.q_proj.{{p}}", f"{OUR_DECODER}self_attn.in_proj_{{p}}", part=(0, 3)),
        Row(f"{DECODER}self_attn.k_proj.{{p}}", f"{OUR_DECODER}self_attn.in_proj_{{p}}", part=(1, 3)),
        Row(f"{DECODER}self_attn.v_proj.{{p}}", f"{OUR_DECODER}self_attn.in_proj_{{p}}", part=(2, 3)),
        Row(f"{DECODER}self_attn.out_proj.{{p}}", f"{OUR_DECODER}self_attn.out_proj.{{p}}"),
        Row(f"{DECODER}self_attn_layer_norm.{{p}}", f"{OUR_DECODER}self_attn_norm.{{p}}"),
        Row(f"{DECODER}encoder_attn.{{rest}}", f"{OUR_DECODER}cross_attn.{{rest}}"),
        Row(f"{DECODER}encoder_attn_layer_norm.{{p}}", f"{OUR_DECODER}cross_attn_norm.{{p}}"),
        Row(f"{DECODER}fc{{j}}.{{p}}", f"{OUR_DECODER}ffn.linear{{j}}.{{p}}"),
        Row(f"{DECODER}final_layer_norm.{{p}}", f"{OUR_DECODER}ffn_norm.{{p}}"),
        Row("model.query_position_embeddings.weight", "transformer.queries.embedding.weight"),
        Row("model.reference_points.{p}", "transformer.queries.reference_points.{p}"),
        Row("model.enc_output.{p}", f"{PROPOSALS}memory_proj.{{p}}"),
        Row("model.enc_output_norm.{p}", f"{PROPOSALS}memory_norm.{{p}}"),
        Row("model.pos_trans.{p}", "transformer.queries.pos_trans.{p}"),
        Row("model.pos_trans_norm.{p}", "transformer.queries.pos_trans_norm.{p}"),
        *_head_rows("", alias=False),
        *_head_rows("model.decoder.", alias=True),
    ),
)
