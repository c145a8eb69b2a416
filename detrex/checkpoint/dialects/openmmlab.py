"""Names that grew out of OpenMMLab's transformer: detrex's zoo, MMDetection 2.x and 3.x."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from .backbones import classic_resnet, swin
from .ours import BACKBONE, DECODER, ENCODER, HEAD, NECK, PROPOSALS, QUERIES, SHARED_HEADS, head_rows
from .rename import Dialect, Row, count

__all__ = ["DETREX_ZOO", "MMDETECTION_2", "MMDETECTION_3"]

T = "transformer."
UNBIASED = (f"{NECK}{{rest}}.conv.weight",)  # MMDetection's convolutions before a norm


def _neck(norm: str) -> tuple[Row, ...]:
    return (
        Row("neck.{rest}.conv.{p}", f"{NECK}{{rest}}.conv.{{p}}"),
        Row(f"neck.{{rest}}.{norm}.{{p}}", f"{NECK}{{rest}}.norm.{{p}}"),
    )


def _layers(encoder: str, decoder: str, attention: tuple[str, str, str], ffn: str) -> tuple[Row, ...]:
    """Encoder and decoder layers; ``attention`` names that of the encoder, and the decoder's self and cross."""
    own, self_attention, cross_attention = attention
    return (
        Row(f"{encoder}{own}.{{rest}}", f"{ENCODER}self_attn.{{rest}}"),
        Row(f"{encoder}{ffn}layers.0.0.{{p}}", f"{ENCODER}ffn.linear1.{{p}}"),
        Row(f"{encoder}{ffn}layers.1.{{p}}", f"{ENCODER}ffn.linear2.{{p}}"),
        Row(f"{encoder}norms.0.{{p}}", f"{ENCODER}self_attn_norm.{{p}}"),
        Row(f"{encoder}norms.1.{{p}}", f"{ENCODER}ffn_norm.{{p}}"),
        Row(f"{decoder}{self_attention}.attn.{{rest}}", f"{DECODER}self_attn.{{rest}}"),
        Row(f"{decoder}{cross_attention}.{{rest}}", f"{DECODER}cross_attn.{{rest}}"),
        Row(f"{decoder}{ffn}layers.0.0.{{p}}", f"{DECODER}ffn.linear1.{{p}}"),
        Row(f"{decoder}{ffn}layers.1.{{p}}", f"{DECODER}ffn.linear2.{{p}}"),
        Row(f"{decoder}norms.0.{{p}}", f"{DECODER}self_attn_norm.{{p}}"),
        Row(f"{decoder}norms.1.{{p}}", f"{DECODER}cross_attn_norm.{{p}}"),
        Row(f"{decoder}norms.2.{{p}}", f"{DECODER}ffn_norm.{{p}}"),
    )


def _transformer(prefix: str) -> tuple[Row, ...]:
    """detrex's and MMDetection 2's transformer."""
    attention = ("attentions.0", "attentions.0", "attentions.1")
    return (
        Row(f"{prefix}level_embeds", f"{T}level_embeds"),
        *_layers(f"{prefix}encoder.layers.{{i}}.", f"{prefix}decoder.layers.{{i}}.", attention, "ffns.0."),
        Row(f"{prefix}reference_points.{{p}}", f"{QUERIES}reference_points.{{p}}"),
        Row(f"{prefix}enc_output.{{p}}", f"{PROPOSALS}memory_proj.{{p}}"),
        Row(f"{prefix}enc_output_norm.{{p}}", f"{PROPOSALS}memory_norm.{{p}}"),
        Row(f"{prefix}pos_trans.{{p}}", f"{QUERIES}pos_trans.{{p}}"),
        Row(f"{prefix}pos_trans_norm.{{p}}", f"{QUERIES}pos_trans_norm.{{p}}"),
    )


def _branches(prefix: str) -> tuple[Row, ...]:
    """MMDetection's heads; the box branch is a list with activations in between."""
    classes = f"{prefix}cls_branches."
    linears = [(f"{prefix}reg_branches.", 2 * n, f"bbox_embed.layers.{n}.{{p}}") for n in range(3)]
    return (
        Row(f"{classes}{{layers}}.{{p}}", f"{PROPOSALS}head.class_embed.{{p}}"),
        Row(f"{classes}{{i}}.{{p}}", f"{HEAD}class_embed.{{p}}"),
        *(Row(f"{boxes}{{layers}}.{n}.{{p}}", f"{PROPOSALS}head.{ours}") for boxes, n, ours in linears),
        *(Row(f"{boxes}{{i}}.{n}.{{p}}", f"{HEAD}{ours}") for boxes, n, ours in linears),
    )


def _layers_of(template: str):
    def constants(state: Mapping[str, Tensor]) -> dict[str, int]:
        return {"layers": count(state, template)}

    return constants


DETREX_ZOO = Dialect(
    name="detrex zoo",
    signature=(f"{ENCODER}attentions.0.value_proj.weight", "neck.convs.{i}.conv.weight"),
    constants=_layers_of(f"{DECODER}attentions.1.value_proj.weight"),
    shared=SHARED_HEADS,
    rows=(
        Row("criterion.{rest}", None),
        Row("{rest}.num_batches_tracked", None),
        *swin("backbone."),
        Row("backbone.{rest}", f"{BACKBONE}{{rest}}"),
        *_neck("norm"),
        # As in the official files: content and position, or with mixed query selection content alone.
        Row("query_embedding.weight", f"{QUERIES}content.weight", beside=f"{T}enc_output.weight"),
        Row("query_embedding.weight", f"{QUERIES}embedding.weight"),
        *_transformer(T),
        *head_rows("class_embed.", "bbox_embed."),
        *head_rows(f"{T}decoder.class_embed.", f"{T}decoder.bbox_embed.", aliases=True),
    ),
)

MMDETECTION_2 = Dialect(
    name="MMDetection 2",
    signature=(f"bbox_head.{ENCODER}attentions.0.value_proj.weight", "bbox_head.cls_branches.{i}.weight"),
    constants=_layers_of(f"bbox_head.{DECODER}attentions.1.value_proj.weight"),
    shared=SHARED_HEADS,
    unbiased=UNBIASED,
    rows=(
        *classic_resnet("backbone."),
        *_neck("gn"),
        Row("bbox_head.query_embedding.weight", f"{QUERIES}embedding.weight"),
        *_transformer(f"bbox_head.{T}"),
        *_branches("bbox_head."),
    ),
)

MMDETECTION_3 = Dialect(
    name="MMDetection 3",
    signature=("encoder.layers.{i}.self_attn.value_proj.weight", "bbox_head.cls_branches.{i}.weight"),
    constants=_layers_of("decoder.layers.{i}.cross_attn.value_proj.weight"),
    shared=SHARED_HEADS,
    unbiased=UNBIASED,
    rows=(
        Row("data_preprocessor.{rest}", None),
        *classic_resnet("backbone."),
        *_neck("gn"),
        Row("level_embed", f"{T}level_embeds"),
        *_layers("encoder.layers.{i}.", "decoder.layers.{i}.", ("self_attn", "self_attn", "cross_attn"), "ffn."),
        Row("query_embedding.weight", f"{QUERIES}embedding.weight"),
        Row("reference_points_fc.{p}", f"{QUERIES}reference_points.{{p}}"),
        Row("memory_trans_fc.{p}", f"{PROPOSALS}memory_proj.{{p}}"),
        Row("memory_trans_norm.{p}", f"{PROPOSALS}memory_norm.{{p}}"),
        Row("pos_trans_fc.{p}", f"{QUERIES}pos_trans.{{p}}"),
        Row("pos_trans_norm.{p}", f"{QUERIES}pos_trans_norm.{{p}}"),
        *_branches("bbox_head."),
    ),
)
