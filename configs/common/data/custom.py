"""Any data set of your own, given by override. Its format is recognised: COCO json, YOLO, Pascal VOC xml, or a Roboflow
export of these.

    dataloader.data.root=path/to/data_set

or, for COCO json, the files one by one:

    dataloader.data.image_root=path/to/images
    dataloader.data.train_json=path/to/train.json
    dataloader.data.val_json=path/to/val.json

Class names and ``model.num_classes`` are read from the data by ``detrex.data.prepare_data``. The augmentation is that
of ``coco_detr.py``.
"""

from .coco_detr import dataloader

dataloader.data = {
    "name": "custom",  # the data sets are registered as <name>_train, <name>_val and <name>_test
    "root": None,  # folder of the data set; instead of the next four
    "image_root": None,  # folder that the file names in the json are relative to
    "train_json": None,
    "val_json": None,
    "val_image_root": None,  # None: as image_root
    "format": None,  # of root: "coco", "yolo" or "voc"; None: recognised
    "val_fraction": 0.2,  # of the training images that validate where there is no validation split
    "split_seed": 0,  # of that split
    "train_splits": ["train"],  # that are trained on; [train, val] uses both
    "eval_split": "val",  # that is evaluated: val, test or train
    "class_names": None,  # the data's own names in another order of class ids; None: as in the data
    "allow_outside": False,  # whether paths in annotation files may leave the data set's folder
}

dataloader.train.dataset.names = "${...data.name}_train"
dataloader.test.dataset.names = "${...data.name}_val"
