"""The two-stage Deformable DETR baseline of H-Deformable-DETR: ResNet-50, 50 epochs.

    python tools/train_net.py --num-gpus 8 \
    --config-file projects/h_deformable_detr/configs/deformable_detr_baseline_r50_two_stage_50ep.py

The authors published the script, but no result in their README.
"""

from detrex.modeling import IterativeRefinement

from .deformable_detr_baseline_r50_two_stage_50ep_tricks import dataloader, lr_multiplier, model, optimizer, train

model.transformer.encoder.dropout = 0.1
model.transformer.queries.content = "proposal"
model.transformer.decoder.refinement._target_ = IterativeRefinement
train.output_dir = "./output/deformable_detr_baseline_r50_two_stage_50ep"
