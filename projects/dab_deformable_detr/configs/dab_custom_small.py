"""A small DAB-Deformable-DETR for a data set of your own: from scratch, on a CPU or one GPU.

    detrex train --config-file projects/dab_deformable_detr/configs/dab_custom_small.py \
        dataloader.data.root=path/to/data_set
"""

from detectron2.config import LazyCall as L

from detrex.config import get_config
from projects.dab_deformable_detr.modeling import AnchorDecoder, AnchorQueries

base = get_config("projects/deformable_detr/configs/custom_small.py")
dataloader, lr_multiplier, model = base.dataloader, base.lr_multiplier, base.model
optimizer, train = base.optimizer, base.train
del base

model.transformer.queries = L(AnchorQueries)(groups=model.transformer.queries.groups, embed_dim="${..embed_dim}")
model.transformer.decoder._target_ = AnchorDecoder

train.output_dir = "./output/dab_custom_small"
