"""H-Deformable-DETR with Swin-Small, 36 epochs.

    python tools/train_net.py --num-gpus 8 \
    --config-file projects/h_deformable_detr/configs/h_deformable_detr_swin_small_two_stage_36ep.py

The authors published the script, but no result.
"""

from detrex.config import get_config

from .h_deformable_detr_swin_small_two_stage_12ep import dataloader, model, optimizer, train

lr_multiplier = get_config("common/coco_schedule.py").lr_multiplier_36ep
train.max_iter = "36ep"
train.output_dir = "./output/h_deformable_detr_swin_small_two_stage_36ep"
