"""Deformable DETR, ResNet-50, 50 epochs, in the authors' recipe.

Published: 44.5 box AP.
"""

from detrex.config import get_config

from .deformable_detr_r50_50ep import dataloader, lr_multiplier, model, train

optimizer = get_config("common/optim.py").official
dataloader.train.total_batch_size = 32
model.backbone.freeze_at = 2
model.num_select = 100

train.output_dir = "./output/deformable_detr_r50_50ep_official"
