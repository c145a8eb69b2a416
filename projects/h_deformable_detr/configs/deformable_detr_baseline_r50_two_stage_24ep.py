"""The two-stage Deformable DETR baseline of H-Deformable-DETR: ResNet-50, 24 epochs.

    python tools/train_net.py --num-gpus 8 \
    --config-file projects/h_deformable_detr/configs/deformable_detr_baseline_r50_two_stage_24ep.py

The authors published the script, but no result in their README.
"""

from detrex.config import get_config

from .deformable_detr_baseline_r50_two_stage_50ep import dataloader, model, optimizer, train

lr_multiplier = get_config("common/coco_schedule.py").lr_multiplier_24ep
train.max_iter = "24ep"
train.output_dir = "./output/deformable_detr_baseline_r50_two_stage_24ep"
