"""Our names, as the tables refer to them, and rows that several dialects share."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from .rename import Row, count

__all__ = ["BACKBONE", "DECODER", "ENCODER", "HEAD", "NECK", "PROPOSALS", "QUERIES", "SHARED_HEADS", "our_constants"]
__all__ += ["head_rows", "neck_rows"]

BACKBONE, NECK = "backbone.", "neck."
ENCODER, DECODER = "transformer.encoder.layers.{i}.", "transformer.decoder.layers.{i}."
QUERIES, HEAD = "transformer.queries.", "transformer.decoder.heads.{i}."
PROPOSALS = f"{QUERIES}proposals."
SHARED_HEADS = (f"{HEAD}class_embed.{{p}}", f"{HEAD}bbox_embed.{{rest}}")


def our_constants(state: Mapping[str, Tensor]) -> dict[str, int]:
    """The constants of one of our own state dicts, for :func:`from_ours`."""
    return {
        "layers": count(state, f"{DECODER}ffn.linear1.weight"),
        "inputs": count(state, f"{NECK}convs.{{i}}.conv.weight"),
    }


def head_rows(classes: str, boxes: str, *, alias: bool = False) -> tuple[Row, ...]:
    """One head for each decoder layer and then that of the proposals, whose row 0 is objectness.

    Args:
        classes, boxes: foreign names up to the number of the layer.
        alias: whether the names repeat other names' tensors.
    """
    return (
        Row(f"{classes}{{layers}}.{{p}}", f"{PROPOSALS}head.class_embed.{{p}}", classes="slice", alias=alias),
        Row(f"{classes}{{i}}.{{p}}", f"{HEAD}class_embed.{{p}}", classes="gather", alias=alias),
        Row(f"{boxes}{{layers}}.{{rest}}", f"{PROPOSALS}head.bbox_embed.{{rest}}", alias=alias),
        Row(f"{boxes}{{i}}.{{rest}}", f"{HEAD}bbox_embed.{{rest}}", alias=alias),
    )


def neck_rows(prefix: str) -> tuple[Row, ...]:
    """A list of pairs (convolution, norm), of which the first ``inputs`` are for the backbone's maps."""
    return (
        Row(f"{prefix}{{i}}.0.{{p}}", f"{NECK}extra_convs.{{i-inputs}}.conv.{{p}}"),
        Row(f"{prefix}{{i}}.1.{{p}}", f"{NECK}extra_convs.{{i-inputs}}.norm.{{p}}"),
        Row(f"{prefix}{{i}}.0.{{p}}", f"{NECK}convs.{{i}}.conv.{{p}}"),
        Row(f"{prefix}{{i}}.1.{{p}}", f"{NECK}convs.{{i}}.norm.{{p}}"),
    )
