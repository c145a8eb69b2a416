"""A small H-Deformable-DETR for a data set of your own: from scratch, on a CPU or one GPU.

    python tools/train_net.py --config-file projects/h_deformable_detr/configs/custom_small.py \
        dataloader.data.image_root=path/to/images \
        dataloader.data.train_json=path/to/train.json dataloader.data.val_json=path/to/val.json

The small two-stage Deformable DETR with mixed query selection, look forward twice and a hybrid branch of 300 queries;
docs/h_deformable_detr.md compares the two.
"""

from detectron2.config import LazyCall as L

from detrex.config import get_config
from detrex.modeling import LookForwardTwice
from projects.h_deformable_detr.modeling import HybridCriterion

base = get_config("projects/deformable_detr/configs/custom_small.py")
dataloader, lr_multiplier, model = base.dataloader, base.lr_multiplier, base.model
optimizer, train = base.optimizer, base.train
del base

model.transformer.queries.content = "learned"  # mixed query selection
model.transformer.queries.groups.one2many = 300
model.transformer.decoder.refinement = L(LookForwardTwice)()
model.criterion._target_ = HybridCriterion
model.criterion.num_repeats = 6
model.criterion.one2many_weight = 1.0

train.output_dir = "./output/custom_small"
