"""The two-stage baseline of H-Deformable-DETR with its tricks, without its hybrid branch: ResNet-50, 50 epochs.

    python tools/train_net.py --num-gpus 8 \
    --config-file projects/h_deformable_detr/configs/deformable_detr_baseline_r50_two_stage_50ep_tricks.py

The authors published the script, but no result in their README.
"""

from detrex.modeling import SetCriterion

from .h_deformable_detr_r50_50ep import dataloader, lr_multiplier, model, optimizer, train

model.transformer.queries.groups.one2many = 0
model.criterion._target_ = SetCriterion
del model.criterion.num_repeats, model.criterion.one2many_weight
model.backbone.freeze_at = 2  # the authors trained these alone: their freezing and test protocol
model.num_select = 100
train.output_dir = "./output/deformable_detr_baseline_r50_two_stage_50ep_tricks"
