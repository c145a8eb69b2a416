"""H-Deformable-DETR with ResNet-50, 36 epochs.

    python tools/train_net.py --num-gpus 8 \
    --config-file projects/h_deformable_detr/configs/h_deformable_detr_r50_two_stage_36ep.py

Published: 50.0 box AP with the 100 best detections, 50.3 with 300 (authors' weights).
"""

from detrex.config import get_config

from .base.h_deformable_detr_r50 import dataloader, optimizer, train
from .base.h_deformable_detr_r50 import hybrid as model

lr_multiplier = get_config("common/coco_schedule.py").lr_multiplier_36ep
train.max_iter = "36ep"
train.output_dir = "./output/h_deformable_detr_r50_two_stage_36ep"
