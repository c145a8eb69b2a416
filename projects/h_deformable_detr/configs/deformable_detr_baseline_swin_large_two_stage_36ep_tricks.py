"""The two-stage baseline of H-Deformable-DETR with its tricks, without its hybrid branch: Swin-Large, 36 epochs.

    python tools/train_net.py --num-gpus 8 \
    --config-file projects/h_deformable_detr/configs/deformable_detr_baseline_swin_large_two_stage_36ep_tricks.py

Published: 56.3 box AP with the 100 best detections.
"""

from detrex.config import get_config

from .deformable_detr_baseline_swin_large_two_stage_12ep_tricks import dataloader, model, optimizer, train

lr_multiplier = get_config("common/coco_schedule.py").lr_multiplier_36ep
train.max_iter = "36ep"
model.backbone.drop_path_rate = 0.5
train.output_dir = "./output/deformable_detr_baseline_swin_large_two_stage_36ep_tricks"
