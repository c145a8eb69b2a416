"""Deformable DETR + iterative box refinement ++ two-stage, ResNet-50, 50 epochs, in detrex's recipe.

    python tools/train_net.py --num-gpus 8 \
        --config-file projects/deformable_detr/configs/deformable_detr_r50_two_stage_50ep.py

Published by detrex: 48.19 box AP on COCO val2017.
"""

from .base.deformable_detr_r50 import dataloader, lr_multiplier, optimizer, train
from .base.deformable_detr_r50 import two_stage as model

train.output_dir = "./output/deformable_detr_r50_two_stage_50ep"
