"""A small Deformable DETR ++ two-stage for a data set of your own: from scratch, on a CPU or one GPU.

    python tools/train_net.py --config-file projects/deformable_detr/configs/custom_small.py \
        dataloader.data.root=path/to/data_set

For a few hundred images of moderately large objects; docs/custom_data.md shows a run.
"""

import detectron2.data.transforms as T
from detectron2.config import LazyCall as L

from detrex.config import get_config

from .base.small_two_stage import lr_multiplier, model, optimizer, train

dataloader = get_config("common/data/custom.py").dataloader

model.transformer.decoder.num_layers = 3

dataloader.train.mapper.augmentation = [
    L(T.RandomFlip)(),
    L(T.RandomBrightness)(intensity_min=0.8, intensity_max=1.2),
    L(T.RandomContrast)(intensity_min=0.8, intensity_max=1.2),
    L(T.ResizeShortestEdge)(short_edge_length=(160, 176, 192, 208, 224), max_size=320, sample_style="choice"),
]
dataloader.train.mapper.augmentation_with_crop = [
    L(T.RandomFlip)(),
    L(T.RandomBrightness)(intensity_min=0.8, intensity_max=1.2),
    L(T.RandomContrast)(intensity_min=0.8, intensity_max=1.2),
    L(T.RandomCrop)(crop_type="relative_range", crop_size=(0.6, 0.6)),
    L(T.ResizeShortestEdge)(short_edge_length=(160, 176, 192, 208, 224), max_size=320, sample_style="choice"),
]
dataloader.test.mapper.augmentation = [L(T.ResizeShortestEdge)(short_edge_length=192, max_size=320)]
dataloader.train.num_workers = 1
dataloader.test.num_workers = 1

dataloader.train.total_batch_size = 8
optimizer.lr = 2e-3
train.lr_scaling.rule, train.lr_scaling.base_batch_size = "sqrt", 8
train.max_iter = "40ep"
train.warmup = "3ep"
train.eval_period = "10ep"
train.checkpointer.period = "10ep"
train.output_dir = "./output/custom_small"
