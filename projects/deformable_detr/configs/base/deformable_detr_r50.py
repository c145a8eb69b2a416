"""Deformable DETR with ResNet-50 in detrex's recipe: what the published configs share.

``model`` is one-stage without box refinement, ``with_box_refinement`` a few edits of it, and ``two_stage`` of that one.
"""

import copy

from detectron2.config import LazyCall as L

from detrex.config import get_config
from detrex.layers import PositionEmbeddingSine
from detrex.modeling import (
    DeformableDecoder,
    DeformableEncoder,
    DeformableTransformer,
    HungarianMatcher,
    IterativeRefinement,
    LearnedQueries,
    LossWeights,
    NoRefinement,
    QueryGroups,
    SetCriterion,
    TwoStageQueries,
)
from detrex.modeling.neck import ChannelMapper
from projects.deformable_detr.modeling import DeformableDETR

_resnet50 = get_config("common/models/backbones.py").resnet50

dataloader = get_config("common/data/coco_detr.py").dataloader
optimizer = get_config("common/optim.py").detrex_zoo
lr_multiplier = get_config("common/coco_schedule.py").lr_multiplier_50ep
train = get_config("common/train.py").train

train.init_checkpoint = _resnet50.checkpoint
train.max_iter = "50ep"

model = L(DeformableDETR)(
    num_classes=80,
    backbone=_resnet50.backbone,
    neck=L(ChannelMapper)(
        input_shapes=_resnet50.shapes,
        in_features=list(_resnet50.shapes),
        out_channels="${..transformer.embed_dim}",
        num_outs="${..transformer.num_feature_levels}",
        kernel_size=1,
        norm="GN",
    ),
    transformer=L(DeformableTransformer)(
        embed_dim=256,
        num_feature_levels=4,
        position_embedding=L(PositionEmbeddingSine)(embed_dim="${..embed_dim}"),
        encoder=L(DeformableEncoder)(
            num_layers=6,
            embed_dim="${..embed_dim}",
            num_heads=8,
            feedforward_dim=1024,
            num_feature_levels="${..num_feature_levels}",
            num_points=4,
            dropout=0.1,
            use_checkpoint=False,
        ),
        queries=L(LearnedQueries)(
            groups=L(QueryGroups)(one2one=300, one2many=0),
            embed_dim="${..embed_dim}",
        ),
        decoder=L(DeformableDecoder)(
            num_layers=6,
            num_classes="${...num_classes}",
            refinement=L(NoRefinement)(),
            embed_dim="${..embed_dim}",
            num_heads="${..encoder.num_heads}",
            feedforward_dim="${..encoder.feedforward_dim}",
            num_feature_levels="${..num_feature_levels}",
            num_points="${..encoder.num_points}",
            dropout="${..encoder.dropout}",
            inverse_sigmoid_eps=1e-5,
        ),
    ),
    criterion=L(SetCriterion)(
        num_classes="${..num_classes}",
        matcher=L(HungarianMatcher)(cost_class=2.0, cost_bbox=5.0, cost_giou=2.0, alpha=0.25, gamma=2.0),
        weights=L(LossWeights)(class_=1.0, bbox=5.0, giou=2.0),
        alpha=0.25,
        gamma=2.0,
        aux_loss=True,
    ),
    pixel_mean=[123.675, 116.280, 103.530],
    pixel_std=[58.395, 57.120, 57.375],
    num_select=300,
)

with_box_refinement = copy.deepcopy(model)
with_box_refinement.transformer.decoder.refinement = L(IterativeRefinement)()

two_stage = copy.deepcopy(with_box_refinement)
two_stage.transformer.queries = L(TwoStageQueries)(
    groups=two_stage.transformer.queries.groups,
    num_classes="${...num_classes}",
    content="proposal",
    embed_dim="${..embed_dim}",
)
two_stage.transformer.decoder.point_reference = False
