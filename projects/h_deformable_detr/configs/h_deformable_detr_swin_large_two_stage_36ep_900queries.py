"""H-Deformable-DETR with Swin-Large and 900 queries, 36 epochs.

    python tools/train_net.py --num-gpus 8 \
    --config-file projects/h_deformable_detr/configs/h_deformable_detr_swin_large_two_stage_36ep_900queries.py

Published: 57.4 box AP with the 100 best detections, 57.6 with 300 (authors), 57.7 with 300 (detrex, the same weights).
"""

from .h_deformable_detr_swin_large_two_stage_36ep import dataloader, lr_multiplier, model, optimizer, train

model.transformer.queries.groups.one2one = 900
train.output_dir = "./output/h_deformable_detr_swin_large_two_stage_36ep_900queries"
