"""``config.json`` of Hugging Face's Deformable DETR for one of our models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from detrex.checkpoint.dialects.coco_classes import NUM_IDS, NUM_USED, USED_COCO_IDS

from .errors import CheckpointError

__all__ = ["transformers_config"]

RESNETS = {(3, 4, 6, 3): "resnet50", (3, 4, 23, 3): "resnet101"}


def transformers_config(model: nn.Module, *, num_labels: int, class_names: Sequence[str] = ()) -> dict[str, Any]:
    """What ``DeformableDetrForObjectDetection.from_pretrained`` builds the same model from.

    Args:
        model: a :class:`~projects.deformable_detr.modeling.DeformableDETR`; its parameters may be on the meta device.
        num_labels: rows of the classifiers in the file.
        class_names: of the model's classes; numbered if there are none.

    Raises:
        CheckpointError: transformers has no such model.
    """
    transformer = model.transformer
    encoder, decoder = transformer.encoder.layers, transformer.decoder.layers
    two_stage = hasattr(transformer.queries, "proposals")
    queries = transformer.queries.groups.one2one
    config: dict[str, Any] = {
        "model_type": "deformable_detr",
        "architectures": ["DeformableDetrForObjectDetection"],
        "backbone": _resnet(model.backbone),
        "use_timm_backbone": True,
        "use_pretrained_backbone": False,
        "dilation": model.backbone.res5[-1].conv2.dilation[0] == 2,
        "num_channels": 3,
        "d_model": len(transformer.level_embeds[0]),
        "num_feature_levels": len(transformer.level_embeds),
        "num_queries": queries,
        "two_stage": two_stage,
        "two_stage_num_proposals": queries,
        "with_box_refine": type(transformer.decoder.refinement).__name__ != "NoRefinement",
        "position_embedding_type": "sine",
        "auxiliary_loss": True,
        "id2label": {str(i): label for i, label in enumerate(_labels(num_labels, class_names))},
    }
    for name, layers, attention in (("encoder", encoder, "self_attn"), ("decoder", decoder, "cross_attn")):
        config[f"{name}_layers"] = len(layers)
        config[f"{name}_attention_heads"] = getattr(layers[0], attention).num_heads
        config[f"{name}_n_points"] = getattr(layers[0], attention).num_points
        config[f"{name}_ffn_dim"] = layers[0].ffn.linear1.out_features
    config["label2id"] = {label: int(i) for i, label in config["id2label"].items()}
    return config


def _resnet(backbone: nn.Module) -> str:
    depths = tuple(len(getattr(backbone, f"res{i}", ())) for i in range(2, 6))
    if depths not in RESNETS:
        raise CheckpointError(f"Hugging Face: a backbone other than {' or '.join(RESNETS.values())} cannot be written")
    return RESNETS[depths]


def _labels(num_labels: int, class_names: Sequence[str]) -> list[str]:
    """A label for each row; unused ids of COCO and unnamed classes have a number, so that labels are unique."""
    labels = [f"LABEL_{i}" for i in range(num_labels)]
    ids = USED_COCO_IDS if (num_labels, len(class_names)) == (NUM_IDS, NUM_USED) else range(num_labels)
    if len(ids) == len(class_names):
        for i, name in zip(ids, class_names, strict=True):
            labels[i] = name
    return labels
