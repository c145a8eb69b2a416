from detrex.config import get_config

from .models.one_stage import model

dataloader = get_config("common/data/coco_detr.py").dataloader
lr_multiplier = get_config("common/coco_schedule.py").lr_multiplier_50ep
optimizer = get_config("common/optim.py").AdamW
train = get_config("common/train.py").train

train.init_checkpoint = "detectron2://ImageNetPretrained/torchvision/R-50.pkl"
train.output_dir = "./output/one_stage"
train.max_iter = 375000
train.clip_grad.enabled = True
model.device = train.device
optimizer.weight_decay = 1e-4
optimizer.params.lr_factor_func = lambda name: 0.1 if "backbone" in name else 1
dataloader.train.num_workers = 16
dataloader.evaluator.output_dir = train.output_dir
