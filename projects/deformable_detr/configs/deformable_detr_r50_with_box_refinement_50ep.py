"""Deformable DETR + iterative box refinement, ResNet-50, 50 epochs, in detrex's recipe.

    python tools/train_net.py --num-gpus 8 \
        --config-file projects/deformable_detr/configs/deformable_detr_r50_with_box_refinement_50ep.py

Published by detrex: 46.99 box AP on COCO val2017.
"""

from .base.deformable_detr_r50 import dataloader, lr_multiplier, optimizer, train
from .base.deformable_detr_r50 import with_box_refinement as model

train.output_dir = "./output/deformable_detr_r50_with_box_refinement_50ep"
