"""Our names, as the tables refer to them, and rows that several dialects share."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from .rename import Row, count

__all__ = ["BACKBONE", "DECODER", "ENCODER", "HEAD", "NECK", "PROPOSALS", "QUERIES", "SHARED_HEADS", "our_constants"]
__all__ += ["head_rows", "neck_rows"]

BACKBONE, NECK = "backbone.", "neck."
ENCODER, DECODER = "transformer.encoder.layers.{i}.", "transformer.decoder.layers.{i}."
QUERIES, HEAD = "transformer.queries.", "transformer.decoder.heads.{i}."
PROPOSALS = f"{QUERIES}proposals."
_LAST_BOX_LAYER = r"transformer\.decoder\.heads\.\d+\.bbox_embed\.layers\.2\.weight"
SHARED_HEADS = (f"{HEAD}class_embed.{{p}}", f"{HEAD}bbox_embed.{{rest}}")


def our_constants(state: Mapping[str, Tensor]) -> dict[str, int]:
    """The constants of one of our own state dicts, for :func:`~.export.from_ours`.

    ``refinement`` is whether the layers' box heads differ. Without refinement they are one module; with it they start
    as copies of each other, so that a model that was never trained counts as one without.
    """
    layers = count(state, f"{DECODER}ffn.linear1.weight")
    boxes = [value for name, value in state.items() if re.fullmatch(_LAST_BOX_LAYER, name)]
    return {
        "layers": layers,
        "inputs": count(state, f"{NECK}convs.{{i}}.conv.weight"),
        "refinement": int(any(not torch.equal(value, boxes[0]) for value in boxes)),
        "two_stage": count(state, f"{PROPOSALS}head.class_embed.weight"),
    }


def head_rows(classes: str, boxes: str, *, aliases: bool = False) -> tuple[Row, ...]:
    """One head for each decoder layer and then that of the proposals, whose row 0 is objectness.

    Args:
        classes, boxes: foreign names up to the number of the layer.
        aliases: whether the names repeat other names' tensors, those of classes in two-stage models, those of boxes
            in models with refinement.
    """
    of_classes, of_boxes = ("two_stage", "refinement") if aliases else (None, None)
    return (
        Row(f"{classes}{{layers}}.{{p}}", f"{PROPOSALS}head.class_embed.{{p}}", classes="slice", alias=of_classes),
        Row(f"{classes}{{i}}.{{p}}", f"{HEAD}class_embed.{{p}}", classes="gather", alias=of_classes),
        Row(f"{boxes}{{layers}}.{{rest}}", f"{PROPOSALS}head.bbox_embed.{{rest}}", alias=of_boxes),
        Row(f"{boxes}{{i}}.{{rest}}", f"{HEAD}bbox_embed.{{rest}}", alias=of_boxes),
    )


def neck_rows(prefix: str) -> tuple[Row, ...]:
    """A list of pairs (convolution, norm), of which the first ``inputs`` are for the backbone's maps."""
    return (
        Row(f"{prefix}{{i}}.0.{{p}}", f"{NECK}extra_convs.{{i-inputs}}.conv.{{p}}"),
        Row(f"{prefix}{{i}}.1.{{p}}", f"{NECK}extra_convs.{{i-inputs}}.norm.{{p}}"),
        Row(f"{prefix}{{i}}.0.{{p}}", f"{NECK}convs.{{i}}.conv.{{p}}"),
        Row(f"{prefix}{{i}}.1.{{p}}", f"{NECK}convs.{{i}}.norm.{{p}}"),
    )
