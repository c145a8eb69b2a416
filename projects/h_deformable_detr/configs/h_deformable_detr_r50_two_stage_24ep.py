"""H-Deformable-DETR with ResNet-50, 24 epochs.

    python tools/train_net.py --num-gpus 8 \
    --config-file projects/h_deformable_detr/configs/h_deformable_detr_r50_two_stage_24ep.py

The authors published the script, but no result.
"""

from detrex.config import get_config

from .base.h_deformable_detr_r50 import dataloader, optimizer, train
from .base.h_deformable_detr_r50 import hybrid as model

lr_multiplier = get_config("common/coco_schedule.py").lr_multiplier_24ep
train.max_iter = "24ep"
train.output_dir = "./output/h_deformable_detr_r50_two_stage_24ep"
