"""H-Deformable-DETR with Swin-Large, 36 epochs.

    python tools/train_net.py --num-gpus 8 \
    --config-file projects/h_deformable_detr/configs/h_deformable_detr_swin_large_two_stage_36ep.py

Published: 57.1 box AP with the 100 best detections, 57.5 with 300 (authors' weights).
"""

from detrex.config import get_config

from .h_deformable_detr_swin_large_two_stage_12ep import dataloader, model, optimizer, train

lr_multiplier = get_config("common/coco_schedule.py").lr_multiplier_36ep
train.max_iter = "36ep"
model.backbone.drop_path_rate = 0.5
train.output_dir = "./output/h_deformable_detr_swin_large_two_stage_36ep"
