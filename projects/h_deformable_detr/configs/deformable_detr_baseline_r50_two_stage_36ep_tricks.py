"""The two-stage baseline of H-Deformable-DETR with its tricks, without its hybrid branch: ResNet-50, 36 epochs.

    python tools/train_net.py --num-gpus 8 \
    --config-file projects/h_deformable_detr/configs/deformable_detr_baseline_r50_two_stage_36ep_tricks.py

Published: 49.0 box AP with the 100 best detections.
"""

from detrex.modeling import SetCriterion

from .h_deformable_detr_r50_two_stage_36ep import dataloader, lr_multiplier, model, optimizer, train

model.transformer.queries.groups.one2many = 0
model.criterion._target_ = SetCriterion
del model.criterion.num_repeats, model.criterion.one2many_weight
model.backbone.freeze_at = 2  # the authors trained these alone: their freezing and test protocol
model.num_select = 100
train.output_dir = "./output/deformable_detr_baseline_r50_two_stage_36ep_tricks"
