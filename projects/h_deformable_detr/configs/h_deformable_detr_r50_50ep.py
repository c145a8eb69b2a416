"""H-Deformable-DETR with ResNet-50, 50 epochs: the base of every config of this project.

    python tools/train_net.py --num-gpus 8 \
    --config-file projects/h_deformable_detr/configs/h_deformable_detr_r50_50ep.py

Two-stage Deformable DETR with box refinement, the "tricks" (no dropout, mixed query selection, look forward twice) and
the hybrid branch: 1500 further queries in training, matched with every object six times. Published results are those of
12 and 36 epochs; for 50 there is none.
"""

from detectron2.config import LazyCall as L

from detrex.config import get_config
from detrex.modeling import LookForwardTwice
from projects.h_deformable_detr.modeling import HybridCriterion

dataloader = get_config("common/data/coco_detr.py").dataloader
# 2e-4, a tenth of it for the backbone and the sampling offsets, decay everywhere: the authors' and detrex's zoo
optimizer = get_config("common/optim.py").official
lr_multiplier = get_config("common/coco_schedule.py").lr_multiplier_50ep
train = get_config("common/train.py").train

train.init_checkpoint = "detectron2://ImageNetPretrained/torchvision/R-50.pkl"
train.output_dir = "./output/h_deformable_detr_r50_50ep"
train.max_iter = "50ep"

model = get_config("projects/deformable_detr/configs/deformable_detr_r50_two_stage_50ep.py").model
model.transformer.encoder.feedforward_dim = 2048
model.transformer.encoder.dropout = 0.0
model.transformer.queries.content = "learned"  # mixed query selection
model.transformer.queries.groups.one2many = 1500
model.transformer.decoder.refinement = L(LookForwardTwice)()
model.criterion._target_ = HybridCriterion
model.criterion.num_repeats = 6
model.criterion.one2many_weight = 1.0
model.criterion.weights.class_ = 2.0
