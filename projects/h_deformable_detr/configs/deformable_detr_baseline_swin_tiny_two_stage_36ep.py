"""The two-stage Deformable DETR baseline of H-Deformable-DETR: Swin-Tiny, 36 epochs.

    python tools/train_net.py --num-gpus 8 \
    --config-file projects/h_deformable_detr/configs/deformable_detr_baseline_swin_tiny_two_stage_36ep.py

Published: 49.0 and 49.6 (two runs) box AP with the 100 best detections.
"""

from detrex.config import get_config

from .deformable_detr_baseline_swin_tiny_two_stage_12ep import dataloader, model, optimizer, train

lr_multiplier = get_config("common/coco_schedule.py").lr_multiplier_36ep
train.max_iter = "36ep"
train.output_dir = "./output/deformable_detr_baseline_swin_tiny_two_stage_36ep"
