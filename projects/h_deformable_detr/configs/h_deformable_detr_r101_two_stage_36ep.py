"""H-Deformable-DETR with ResNet-101, 36 epochs.

    python tools/train_net.py --num-gpus 8 \
    --config-file projects/h_deformable_detr/configs/h_deformable_detr_r101_two_stage_36ep.py

The authors published the script, but no result.
"""

from detrex.config import get_config

from .base.h_deformable_detr_r50 import dataloader, optimizer, train
from .base.h_deformable_detr_r50 import hybrid as model

_backbone = get_config("common/models/backbones.py").resnet101
model.backbone = _backbone.backbone
model.neck.input_shapes, model.neck.in_features = _backbone.shapes, list(_backbone.shapes)
train.init_checkpoint = _backbone.checkpoint
model.backbone.freeze_at = 2  # as the authors
lr_multiplier = get_config("common/coco_schedule.py").lr_multiplier_36ep
train.max_iter = "36ep"
train.output_dir = "./output/h_deformable_detr_r101_two_stage_36ep"
