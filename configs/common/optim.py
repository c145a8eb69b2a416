"""AdamW and the two published recipes of Deformable DETR, as data: they survive ``LazyConfig.save``."""

import torch
from detectron2.config import LazyCall as L
from detectron2.solver.build import get_default_optimizer_params

from detrex.solver.param_groups import LRFactors, layer_decay_params

# The trainer sets params.model. Norms are not decayed; weight_decay_norm=None decays them as everything else.
AdamW = L(torch.optim.AdamW)(
    params=L(get_default_optimizer_params)(base_lr="${..lr}", weight_decay_norm=0.0),
    lr=1e-4,
    betas=(0.9, 0.999),
    weight_decay=1e-4,
)

# The detrex zoo: batch 16 on 8 GPUs, 1e-4 with 1e-5 for the backbone, norms without decay.
detrex_zoo = L(torch.optim.AdamW)(
    params=L(get_default_optimizer_params)(
        base_lr="${..lr}",
        weight_decay_norm=0.0,
        lr_factor_func=L(LRFactors)(factors={"backbone": 0.1}),
    ),
    lr=1e-4,
    betas=(0.9, 0.999),
    weight_decay=1e-4,
)

# The authors' code (Zhu et al. 2021, section 5): 2e-4 with a tenth of it for the backbone and for the layers that
# predict sampling offsets and reference points, decay everywhere. Two-stage models have no reference_points.
# Deformable DETR uses it with batch 32, H-Deformable-DETR (the authors' and detrex's zoo) with batch 16.
official = L(torch.optim.AdamW)(
    params=L(get_default_optimizer_params)(
        base_lr="${..lr}",
        weight_decay_norm=None,
        lr_factor_func=L(LRFactors)(
            factors={"backbone": 0.1, "sampling_offsets": 0.1, "reference_points": 0.1},
            optional=["reference_points"],
        ),
    ),
    lr=2e-4,
    betas=(0.9, 0.999),
    weight_decay=1e-4,
)

# For a pretrained ViT, Swin or ConvNeXt of timm (model.backbone = TimmBackbone): the rate falls towards the input.
layer_decay = L(torch.optim.AdamW)(
    params=L(layer_decay_params)(base_lr="${..lr}", layer_decay=0.8, weight_decay_norm=0.0),
    lr=1e-4,
    betas=(0.9, 0.999),
    weight_decay=0.05,
)
