"""The two-stage Deformable DETR baseline of H-Deformable-DETR: ResNet-50, 50 epochs.

    python tools/train_net.py --num-gpus 8 \
    --config-file projects/h_deformable_detr/configs/deformable_detr_baseline_r50_two_stage_50ep.py

The authors published the script, but no result in their README.
"""

from detrex.config import get_config

from .base.h_deformable_detr_r50 import baseline as model
from .base.h_deformable_detr_r50 import dataloader, optimizer, train

model.backbone.freeze_at = 2  # the authors trained these alone: their freezing and test protocol
model.num_select = 100
lr_multiplier = get_config("common/coco_schedule.py").lr_multiplier_50ep
train.output_dir = "./output/deformable_detr_baseline_r50_two_stage_50ep"
