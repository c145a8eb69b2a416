from detrex.config import get_config

from .models.hybrid import model
from .two_stage import dataloader, optimizer, train

lr_multiplier = get_config("common/coco_schedule.py").lr_multiplier_12ep
model.with_box_refine = model.as_two_stage = True
train.max_iter = 90000
train.output_dir = "./output/hybrid"
