"""Fine-tune Deformable DETR ++ two-stage, ResNet-50, from a COCO checkpoint on a data set of your own.

    python tools/train_net.py --config-file projects/deformable_detr/configs/custom_r50_two_stage.py \
        dataloader.data.root=path/to/data_set \
        train.init_checkpoint=path/to/checkpoint.pth

Everything is taken over from the checkpoint except the classifiers, where the number of classes differs.
"""

from detrex.config import get_config

from .deformable_detr_r50_two_stage_50ep import lr_multiplier, model, optimizer, train

dataloader = get_config("common/data/custom.py").dataloader
dataloader.train.total_batch_size = 4

optimizer.lr = 5e-5  # the square root of 4 / 16 times the recipe's
train.init_checkpoint = "???"
train.checkpoint.reinit = [r"class_embed\.(weight|bias)$"]
train.max_iter = "24ep"
train.eval_period = "2ep"
train.output_dir = "./output/custom_r50_two_stage"
