"""Deformable DETR with ResNet-50: one-stage, without box refinement. The variants are short edits of this model."""

from detectron2.config import LazyCall as L

from detrex.config import get_config
from detrex.layers import PositionEmbeddingSine
from detrex.modeling import (
    DeformableDecoder,
    DeformableEncoder,
    DeformableTransformer,
    HungarianMatcher,
    LearnedQueries,
    LossWeights,
    NoRefinement,
    QueryGroups,
    SetCriterion,
)
from detrex.modeling.neck import ChannelMapper
from projects.deformable_detr.modeling import DeformableDETR

resnet50 = get_config("common/models/backbones.py").resnet50

model = L(DeformableDETR)(
    num_classes=80,
    backbone=resnet50.backbone,
    neck=L(ChannelMapper)(
        input_shapes=resnet50.shapes,
        in_features=list(resnet50.shapes),
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
