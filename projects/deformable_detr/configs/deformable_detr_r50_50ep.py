"""Deformable DETR, ResNet-50, multi-scale, 50 epochs, in detrex's recipe.

    python tools/train_net.py --config-file projects/deformable_detr/configs/deformable_detr_r50_50ep.py --num-gpus 8

Published by detrex: 44.9 box AP on COCO val2017 (with ``model.criterion.weights.class_=2.0``).
"""

from .base.deformable_detr_r50 import dataloader, lr_multiplier, model, optimizer, train

# The published AP of the plain model comes from class weight 2, those of its variants from 1.
model.criterion.weights.class_ = 2.0

train.output_dir = "./output/deformable_detr_r50_50ep"
