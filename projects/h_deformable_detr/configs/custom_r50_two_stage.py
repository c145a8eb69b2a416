"""Fine-tune H-Deformable-DETR, ResNet-50, on a data set of your own, on one GPU or a CPU.

    python tools/train_net.py --config-file projects/h_deformable_detr/configs/custom_r50_two_stage.py \
        dataloader.data.root=path/to/data_set \
        train.init_checkpoint=path/to/checkpoint.pth

As the config of that name of Deformable DETR, with this project's model and recipe.
"""

from detrex.config import get_config

from .h_deformable_detr_r50_two_stage_12ep import lr_multiplier, model, optimizer, train

base = get_config("projects/deformable_detr/configs/custom_r50_two_stage.py")
dataloader = base.dataloader
for key in ("lr_scaling", "checkpoint", "max_iter", "warmup", "eval_period", "ema", "early_stopping", "dry_run"):
    train[key] = base.train[key]
del base, key

train.init_checkpoint = "???"
train.output_dir = "./output/custom_r50_two_stage"
