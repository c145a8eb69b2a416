"""Deformable DETR, ResNet-50, multi-scale, 50 epochs, in detrex's recipe.

    python tools/train_net.py --config-file projects/deformable_detr/configs/deformable_detr_r50_50ep.py --num-gpus 8

Published by detrex: 44.9 box AP on COCO val2017 (with ``model.criterion.weights.class_=2.0``).
"""

from detrex.config import get_config

from .models.deformable_detr_r50 import model

dataloader = get_config("common/data/coco_detr.py").dataloader
optimizer = get_config("common/optim.py").detrex_zoo
lr_multiplier = get_config("common/coco_schedule.py").lr_multiplier_50ep
train = get_config("common/train.py").train

train.init_checkpoint = "detectron2://ImageNetPretrained/torchvision/R-50.pkl"
train.output_dir = "./output/deformable_detr_r50_50ep"
train.max_iter = "50ep"

# The published AP of the plain model comes from class weight 2, those of its variants from 1.
model.criterion.weights.class_ = 2.0
