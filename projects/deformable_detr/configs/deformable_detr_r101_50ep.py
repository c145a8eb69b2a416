"""Deformable DETR with ResNet-101, 50 epochs, in detrex's recipe: an example of another backbone. No published result.

    python tools/train_net.py --num-gpus 8 \
    --config-file projects/deformable_detr/configs/deformable_detr_r101_50ep.py
"""

from detrex.config import get_config

from .deformable_detr_r50_50ep import dataloader, lr_multiplier, model, optimizer, train

_backbone = get_config("common/models/backbones.py").resnet101
model.backbone = _backbone.backbone
model.neck.input_shapes, model.neck.in_features = _backbone.shapes, list(_backbone.shapes)
train.init_checkpoint = _backbone.checkpoint
train.output_dir = "./output/deformable_detr_r101_50ep"
