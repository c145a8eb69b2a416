"""H-Deformable-DETR with Swin-Large and 900 queries, 12 epochs.

    python tools/train_net.py --num-gpus 8 \
    --config-file projects/h_deformable_detr/configs/h_deformable_detr_swin_large_two_stage_12ep_900queries.py

Published: 56.1 box AP with the 100 best detections, 56.4 with 300 (authors' weights).
"""

from .h_deformable_detr_swin_large_two_stage_12ep import dataloader, lr_multiplier, model, optimizer, train

model.transformer.queries.groups.one2one = 900
train.output_dir = "./output/h_deformable_detr_swin_large_two_stage_12ep_900queries"
