"""H-Deformable-DETR with ResNet-50, 12 epochs.

    python tools/train_net.py --num-gpus 8 \
    --config-file projects/h_deformable_detr/configs/h_deformable_detr_r50_two_stage_12ep.py

Published: 48.7 box AP with the 100 best detections, 48.9 with 300 (authors' weights); 49.1 trained by detrex (300).
"""

from detrex.config import get_config

from .base.h_deformable_detr_r50 import dataloader, optimizer, train
from .base.h_deformable_detr_r50 import hybrid as model

lr_multiplier = get_config("common/coco_schedule.py").lr_multiplier_12ep
train.max_iter = "12ep"
train.output_dir = "./output/h_deformable_detr_r50_two_stage_12ep"
