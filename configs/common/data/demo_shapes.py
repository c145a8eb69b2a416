"""The generated demo set (``detrex demo --data-only``): 1,000 + 100 images of 128 pixels, five classes.

The folder is ``dataloader.data.root``; everything else as in ``custom.py``.
"""

import detectron2.data.transforms as T
from detectron2.config import LazyCall as L

from .custom import dataloader

dataloader.data.name = "demo_shapes"
dataloader.data.root = "datasets/demo_shapes"

dataloader.train.mapper.augmentation = [L(T.RandomFlip)()]
dataloader.train.mapper.augmentation_with_crop = None
dataloader.train.aspect_ratio_grouping = False  # all images are square
dataloader.train.num_workers = 0  # half a millisecond per image: a worker costs more than it saves
dataloader.test.mapper.augmentation = []
dataloader.test.num_workers = 0
