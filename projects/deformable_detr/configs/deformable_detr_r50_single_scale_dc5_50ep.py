"""Deformable DETR on one scale: ResNet-50's res5 at stride 16 (DC5), 50 epochs, in the authors' recipe (batch 32).

    python tools/train_net.py --num-gpus 16 \
    --config-file projects/deformable_detr/configs/deformable_detr_r50_single_scale_dc5_50ep.py

Published: 41.5 box AP.
"""

from detrex.config import get_config

from .deformable_detr_r50_50ep_official import dataloader, lr_multiplier, model, optimizer, train

_dc5 = get_config("common/models/backbones.py").resnet50_dc5
model.backbone.stages = _dc5.backbone.stages
model.backbone.out_features = ["res5"]
model.neck.in_features = ["res5"]
model.neck.input_shapes = _dc5.shapes
model.transformer.num_feature_levels = 1
train.output_dir = "./output/deformable_detr_r50_single_scale_dc5_50ep"
