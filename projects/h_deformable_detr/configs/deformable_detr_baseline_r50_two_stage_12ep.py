"""The two-stage Deformable DETR baseline of H-Deformable-DETR: ResNet-50, 12 epochs.

    python tools/train_net.py --num-gpus 8 \
    --config-file projects/h_deformable_detr/configs/deformable_detr_baseline_r50_two_stage_12ep.py

Published: 43.7 box AP with the 100 best detections.
"""

from detrex.config import get_config

from .deformable_detr_baseline_r50_two_stage_50ep import dataloader, model, optimizer, train

lr_multiplier = get_config("common/coco_schedule.py").lr_multiplier_12ep
train.max_iter = "12ep"
train.output_dir = "./output/deformable_detr_baseline_r50_two_stage_12ep"
