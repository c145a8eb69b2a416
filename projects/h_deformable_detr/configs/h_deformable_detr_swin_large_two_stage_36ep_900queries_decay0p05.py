"""H-Deformable-DETR with Swin-Large and 900 queries, 36 epochs, weight decay 0.05.

    python tools/train_net.py --num-gpus 8 \
    --config-file projects/h_deformable_detr/configs/h_deformable_detr_swin_large_two_stage_36ep_900queries_decay0p05.py

Published: 57.8 box AP with the 100 best detections, 57.9 with 300.
"""

from .h_deformable_detr_swin_large_two_stage_36ep import dataloader, lr_multiplier, model, optimizer, train

model.transformer.queries.groups.one2one = 900
optimizer.weight_decay = 0.05
train.output_dir = "./output/h_deformable_detr_swin_large_two_stage_36ep_900queries_decay0p05"
