"""Deformable DETR + iterative box refinement ++ two-stage, ResNet-50, 50 epochs, in detrex's recipe.

    python tools/train_net.py --num-gpus 8 \
        --config-file projects/deformable_detr/configs/deformable_detr_r50_two_stage_50ep.py

Published by detrex: 48.19 box AP on COCO val2017.
"""

from detectron2.config import LazyCall as L

from detrex.modeling import TwoStageQueries

from .deformable_detr_r50_with_box_refinement_50ep import dataloader, lr_multiplier, model, optimizer, train

model.transformer.queries = L(TwoStageQueries)(
    groups=model.transformer.queries.groups,
    num_classes="${...num_classes}",
    content="proposal",
    embed_dim="${..embed_dim}",
)
model.transformer.decoder.point_reference = False

train.output_dir = "./output/deformable_detr_r50_two_stage_50ep"
