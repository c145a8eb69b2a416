"""H-Deformable-DETR with Swin-Tiny, 12 epochs, weight decay 0.05.

    python tools/train_net.py --num-gpus 8 \
    --config-file projects/h_deformable_detr/configs/h_deformable_detr_swin_tiny_two_stage_12ep_decay0p05.py

Published: 51.2 box AP with the 100 best detections.
"""

from .h_deformable_detr_swin_tiny_two_stage_12ep import dataloader, lr_multiplier, model, optimizer, train

optimizer.weight_decay = 0.05
train.output_dir = "./output/h_deformable_detr_swin_tiny_two_stage_12ep_decay0p05"
