"""The two-stage Deformable DETR baseline of H-Deformable-DETR: Swin-Tiny, 36 epochs.

    python tools/train_net.py --num-gpus 8 \
    --config-file projects/h_deformable_detr/configs/deformable_detr_baseline_swin_tiny_two_stage_36ep.py

Published: 49.0 and 49.6 (two runs) box AP with the 100 best detections.
"""

from detrex.modeling import IterativeRefinement

from .deformable_detr_baseline_swin_tiny_two_stage_36ep_tricks import dataloader, lr_multiplier, model, optimizer, train

model.transformer.encoder.dropout = 0.1
model.transformer.queries.content = "proposal"
model.transformer.decoder.refinement._target_ = IterativeRefinement
train.output_dir = "./output/deformable_detr_baseline_swin_tiny_two_stage_36ep"
