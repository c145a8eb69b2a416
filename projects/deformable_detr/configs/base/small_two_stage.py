"""A small Deformable DETR ++ two-stage with its recipe: what the configs that train from scratch on a CPU share.

All of the large model's parts, in small: two levels, box refinement, two-stage.
"""

from detectron2.config import LazyCall as L
from detectron2.layers import ShapeSpec

from detrex.config import get_config
from detrex.modeling.backbone import ConvStages

from .deformable_detr_r50 import two_stage as model

optimizer = get_config("common/optim.py").AdamW
lr_multiplier = get_config("common/coco_schedule.py").lr_multiplier_cosine
train = get_config("common/train.py").train

model.backbone = L(ConvStages)(channels=(16, 32, 64, 128), depths=(1, 1, 1, 1), out_features=("stage3", "stage4"))
model.neck.input_shapes = {"stage3": ShapeSpec(channels=64, stride=8), "stage4": ShapeSpec(channels=128, stride=16)}
model.neck.in_features = ["stage3", "stage4"]
model.transformer.embed_dim = 64
model.transformer.num_feature_levels = 2
model.transformer.encoder.num_layers = 1
model.transformer.encoder.feedforward_dim = 128
model.transformer.encoder.dropout = 0.0
# From random weights the classes come last: boxes are good long before the names are.
model.criterion.weights.class_ = 3.0

train.clip_grad.params.max_norm = 5.0
train.seed = 0
