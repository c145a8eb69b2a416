"""The two-stage Deformable DETR baseline of H-Deformable-DETR: Swin-Tiny, 12 epochs.

    python tools/train_net.py --num-gpus 8 \
    --config-file projects/h_deformable_detr/configs/deformable_detr_baseline_swin_tiny_two_stage_12ep.py

Published: 45.3 and 46.0 (two runs) box AP with the 100 best detections.
"""

from detrex.config import get_config

from .base.h_deformable_detr_r50 import baseline as model
from .base.h_deformable_detr_r50 import dataloader, optimizer, train

_backbone = get_config("common/models/backbones.py").swin_tiny
model.backbone = _backbone.backbone
model.neck.input_shapes, model.neck.in_features = _backbone.shapes, list(_backbone.shapes)
train.init_checkpoint = _backbone.checkpoint
model.num_select = 100
lr_multiplier = get_config("common/coco_schedule.py").lr_multiplier_12ep
train.max_iter = "12ep"
train.output_dir = "./output/deformable_detr_baseline_swin_tiny_two_stage_12ep"
