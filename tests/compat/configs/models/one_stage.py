"""The original's Deformable DETR, in the form of its config files."""

import torch.nn as nn
from detectron2.config import LazyCall as L
from detectron2.layers import ShapeSpec
from detectron2.modeling.backbone import BasicStem, ResNet

from detrex.layers import PositionEmbeddingSine
from detrex.modeling.matcher import HungarianMatcher
from detrex.modeling.neck import ChannelMapper
from projects.deformable_detr.modeling import (
    DeformableCriterion,
    DeformableDETR,
    DeformableDetrTransformer,
    DeformableDetrTransformerDecoder,
    DeformableDetrTransformerEncoder,
)

_width = 256
_layers = {"embed_dim": _width, "num_heads": 8, "feedforward_dim": 1024, "num_layers": 6}
_layers |= {"attn_dropout": 0.1, "ffn_dropout": 0.1, "num_feature_levels": "${..num_feature_levels}"}
_focal = {"alpha": 0.25, "gamma": 2.0}
_norm = "FrozenBN"

backbone = L(ResNet)(
    stem=L(BasicStem)(in_channels=3, out_channels=64, norm=_norm),
    stages=L(ResNet.make_default_stages)(depth=50, stride_in_1x1=False, norm=_norm),
    out_features=["res3", "res4", "res5"],
    freeze_at=1,
)
neck = L(ChannelMapper)(
    input_shapes={f"res{i}": ShapeSpec(channels=64 * 2**i) for i in (3, 4, 5)},
    in_features="${..backbone.out_features}",
    out_channels=_width,
    num_outs=4,
    kernel_size=1,
    norm_layer=L(nn.GroupNorm)(num_groups=32, num_channels=_width),
)
criterion = L(DeformableCriterion)(
    num_classes=80,
    matcher=L(HungarianMatcher)(
        cost_class=2.0, cost_bbox=5.0, cost_giou=2.0, cost_class_type="focal_loss_cost", **_focal
    ),
    weight_dict={"loss_class": 1.0, "loss_bbox": 5.0, "loss_giou": 2.0},
    loss_class_type="focal_loss",
    **_focal,
)
model = L(DeformableDETR)(
    backbone=backbone,
    position_embedding=L(PositionEmbeddingSine)(
        num_pos_feats=_width // 2, temperature=10000, normalize=True, offset=-0.5
    ),
    neck=neck,
    transformer=L(DeformableDetrTransformer)(
        encoder=L(DeformableDetrTransformerEncoder)(post_norm=False, **_layers),
        decoder=L(DeformableDetrTransformerDecoder)(return_intermediate=True, **_layers),
        as_two_stage="${..as_two_stage}",
        num_feature_levels=4,
        two_stage_num_proposals="${..num_queries}",
    ),
    embed_dim=_width,
    num_classes=80,
    num_queries=300,
    aux_loss=True,
    with_box_refine=False,
    as_two_stage=False,
    criterion=criterion,
    pixel_mean=[123.675, 116.280, 103.530],
    pixel_std=[58.395, 57.120, 57.375],
    select_box_nums_for_evaluation=300,
    device="cuda",
)

_weights = model.criterion.weight_dict
if model.aux_loss:
    _names = [f"_{i}" for i in range(model.transformer.decoder.num_layers - 1)] + ["_enc"]
    model.criterion.weight_dict = {f"{k}{suffix}": v for suffix in ["", *_names] for k, v in _weights.items()}
