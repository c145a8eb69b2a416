"""Deformable DETR on one scale: ResNet-50's res5 at stride 32, 50 epochs, in the authors' recipe (batch 32).

    python tools/train_net.py --num-gpus 16 \
    --config-file projects/deformable_detr/configs/deformable_detr_r50_single_scale_50ep.py

Published: 39.4 box AP.
"""

from .deformable_detr_r50_50ep_official import dataloader, lr_multiplier, model, optimizer, train

model.backbone.out_features = ["res5"]
model.neck.in_features = ["res5"]
model.transformer.num_feature_levels = 1
train.output_dir = "./output/deformable_detr_r50_single_scale_50ep"
