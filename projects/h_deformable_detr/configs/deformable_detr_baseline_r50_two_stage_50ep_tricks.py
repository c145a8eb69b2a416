"""The two-stage baseline of H-Deformable-DETR with its tricks, without its hybrid branch: ResNet-50, 50 epochs.

    python tools/train_net.py --num-gpus 8 \
    --config-file projects/h_deformable_detr/configs/deformable_detr_baseline_r50_two_stage_50ep_tricks.py

The authors published the script, but no result in their README.
"""

from detrex.config import get_config

from .base.h_deformable_detr_r50 import dataloader, optimizer, train
from .base.h_deformable_detr_r50 import tricks as model

model.backbone.freeze_at = 2  # the authors trained these alone: their freezing and test protocol
model.num_select = 100
lr_multiplier = get_config("common/coco_schedule.py").lr_multiplier_50ep
train.output_dir = "./output/deformable_detr_baseline_r50_two_stage_50ep_tricks"
