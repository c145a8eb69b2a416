"""The classes that config files of the original detrex name, by their signatures alone.

A config notes a call as a class and arguments, and nothing calls it before it is rewritten. So all that is needed of
those classes is what their arguments are called and which values they have where a config gives none.
"""

from __future__ import annotations

import ast
import inspect
import math
import os
from collections.abc import Callable
from pathlib import Path

__all__ = ["NAMES", "PACKAGES", "is_original_config"]

PACKAGES = ("detrex", "projects")

_SIGNATURES: dict[str, Callable] = {
    "DeformableDETR": lambda backbone, position_embedding, neck, transformer, embed_dim, num_classes, num_queries,
    criterion, pixel_mean, pixel_std, aux_loss=True, with_box_refine=False, as_two_stage=False,
    select_box_nums_for_evaluation=100, device="cuda": None,
    "HDeformableDETR": lambda backbone, position_embedding, neck, transformer, embed_dim, num_classes,
    num_queries_one2one, num_queries_one2many, criterion, pixel_mean, pixel_std, aux_loss=True, with_box_refine=False,
    as_two_stage=False, select_box_nums_for_evaluation=100, device="cuda", mixed_selection=True, k_one2many=6,
    lambda_one2many=1.0: None,
    "DeformableDetrTransformer": lambda encoder, decoder, num_feature_levels=4, as_two_stage=False,
    two_stage_num_proposals=300: None,
    "HDeformableDetrTransformer": lambda encoder, decoder, num_feature_levels=4, as_two_stage=False,
    two_stage_num_proposals=300, mixed_selection=True: None,
    "DeformableDetrTransformerEncoder": lambda embed_dim=256, num_heads=8, feedforward_dim=1024, attn_dropout=0.1,
    ffn_dropout=0.1, num_layers=6, post_norm=False, num_feature_levels=4: None,
    "DeformableDetrTransformerDecoder": lambda embed_dim=256, num_heads=8, feedforward_dim=1024, attn_dropout=0.1,
    ffn_dropout=0.1, num_layers=6, return_intermediate=True, num_feature_levels=4: None,
    "HDeformableDetrTransformerDecoder": lambda embed_dim=256, num_heads=8, feedforward_dim=1024, attn_dropout=0.1,
    ffn_dropout=0.1, num_layers=6, return_intermediate=True, num_feature_levels=4, look_forward_twice=True: None,
    "DeformableCriterion": lambda num_classes, matcher, weight_dict, losses=("class", "boxes"), eos_coef=0.1,
    loss_class_type="focal_loss", alpha=0.25, gamma=2.0: None,
    "HungarianMatcher": lambda cost_class=1, cost_bbox=1, cost_giou=1, cost_class_type="focal_loss_cost", alpha=0.25,
    gamma=2.0: None,
    "ChannelMapper": lambda input_shapes, in_features, out_channels, kernel_size=3, stride=1, bias=True, groups=1,
    dilation=1, norm_layer=None, activation=None, num_outs=None: None,
    "PositionEmbeddingSine": lambda num_pos_feats=64, temperature=10000, scale=2 * math.pi, eps=1e-6, offset=0.0,
    normalize=False: None,
    "DetrDatasetMapper": lambda augmentation, augmentation_with_crop, is_train=True, mask_on=False,
    img_format="RGB": None,
}  # fmt: skip
_SIGNATURES["HDeformableDetrTransformerEncoder"] = _SIGNATURES["DeformableDetrTransformerEncoder"]

NAMES: dict[str, type] = {
    name: type(name, (), {"__module__": __name__, "__signature__": inspect.signature(signature)})
    for name, signature in _SIGNATURES.items()
}
# These say nothing about whose config it is.
_ALSO_OURS = frozenset(
    {"ChannelMapper", "DeformableDETR", "DetrDatasetMapper", "HungarianMatcher", "PositionEmbeddingSine"}
)


def is_original_config(path: str | os.PathLike) -> bool:
    """Whether a file, or a config file that it imports from, takes classes that the original detrex has alone."""
    path = Path(path)
    try:
        statements = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    except (OSError, SyntaxError, UnicodeDecodeError):
        return False  # whoever loads it says what is wrong
    for node in statements:
        if not isinstance(node, ast.ImportFrom) or not node.module:
            continue
        parts = node.module.split(".")
        if node.level:
            if is_original_config(path.absolute().parents[node.level - 1].joinpath(*parts).with_suffix(".py")):
                return True
        elif parts[0] in PACKAGES and any(a.name in NAMES and a.name not in _ALSO_OURS for a in node.names):
            return True
    return False
