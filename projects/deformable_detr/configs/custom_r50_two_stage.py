"""Fine-tune Deformable DETR ++ two-stage, ResNet-50, on a data set of your own, on one GPU or a CPU.

    python tools/train_net.py --config-file projects/deformable_detr/configs/custom_r50_two_stage.py \
        dataloader.data.root=path/to/data_set \
        train.init_checkpoint=path/to/checkpoint.pth

Of a COCO checkpoint everything is taken over except the classifiers, where the number of classes differs; of one of the
backbone (``detectron2://ImageNetPretrained/torchvision/R-50.pkl``) the backbone.
docs/fine_tuning.md explains the switches.
"""

from detrex.config import get_config

from .deformable_detr_r50_two_stage_50ep import lr_multiplier, model, optimizer, train

dataloader = get_config("common/data/custom.py").dataloader
dataloader.train.total_batch_size = 4

train.lr_scaling.rule = "sqrt"  # the recipe's rate goes with a batch of 16: half of it for 4
train.init_checkpoint = "???"
train.checkpoint.reinit = [r"class_embed\.(weight|bias)$"]
train.max_iter = "24ep"
train.warmup = "0.5ep"
train.eval_period = "2ep"
train.ema.enabled = True
train.ema.decay = 0.998
train.early_stopping.patience = 5
train.dry_run = True
train.output_dir = "./output/custom_r50_two_stage"
