"""H-Deformable-DETR with ResNet-50, 50 epochs: the base of every config of this project.

    python tools/train_net.py --num-gpus 8 \
    --config-file projects/h_deformable_detr/configs/h_deformable_detr_r50_50ep.py

Two-stage Deformable DETR with box refinement, the "tricks" (no dropout, mixed query selection, look forward twice) and
the hybrid branch: 1500 further queries in training, matched with every object six times. Published results are those of
12 and 36 epochs; for 50 there is none.
"""

from detrex.config import get_config

from .base.h_deformable_detr_r50 import dataloader, optimizer, train
from .base.h_deformable_detr_r50 import hybrid as model

lr_multiplier = get_config("common/coco_schedule.py").lr_multiplier_50ep
train.output_dir = "./output/h_deformable_detr_r50_50ep"
