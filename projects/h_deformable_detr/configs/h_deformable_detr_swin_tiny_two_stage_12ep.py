"""H-Deformable-DETR with Swin-Tiny, 12 epochs.

    python tools/train_net.py --num-gpus 8 \
    --config-file projects/h_deformable_detr/configs/h_deformable_detr_swin_tiny_two_stage_12ep.py

Published: 50.6 box AP with the 100 best detections, 50.6 with 300 (authors' weights).
"""

from detrex.config import get_config

from .base.h_deformable_detr_r50 import dataloader, optimizer, train
from .base.h_deformable_detr_r50 import hybrid as model

_backbone = get_config("common/models/backbones.py").swin_tiny
model.backbone = _backbone.backbone
model.neck.input_shapes, model.neck.in_features = _backbone.shapes, list(_backbone.shapes)
train.init_checkpoint = _backbone.checkpoint
lr_multiplier = get_config("common/coco_schedule.py").lr_multiplier_12ep
train.max_iter = "12ep"
train.output_dir = "./output/h_deformable_detr_swin_tiny_two_stage_12ep"
