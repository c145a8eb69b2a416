"""As the original's own base config of H-Deformable-DETR: one-stage, but with look-forward-twice."""

from .hybrid import dataloader, lr_multiplier, model, optimizer, train

model.with_box_refine = model.as_two_stage = False
