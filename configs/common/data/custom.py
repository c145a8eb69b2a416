"""Any data set in COCO format, given by override:

    dataloader.data.image_root=path/to/images
    dataloader.data.train_json=path/to/train.json
    dataloader.data.val_json=path/to/val.json

Class names and ``model.num_classes`` are read from the json by ``detrex.data.prepare_data``. The augmentation is that
of ``coco_detr.py``.
"""

from .coco_detr import dataloader

dataloader.data = {
    "name": "custom",  # the data sets are registered as <name>_train and <name>_val
    "image_root": None,  # folder that the file names in the json are relative to
    "train_json": None,
    "val_json": None,
    "val_image_root": None,  # None: as image_root
}

dataloader.train.dataset.names = "${...data.name}_train"
dataloader.test.dataset.names = "${...data.name}_val"
