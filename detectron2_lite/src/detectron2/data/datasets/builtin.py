"""Registration of the standard COCO splits under ``$DETECTRON2_DATASETS`` (default: ``datasets``)."""

import os

from .builtin_meta import _get_builtin_metadata
from .coco import register_coco_instances

_COCO_SPLITS = {  # name: images, annotations; both below "coco/"
    "coco_2014_train": ("train2014", "instances_train2014"),
    "coco_2014_val": ("val2014", "instances_val2014"),
    "coco_2014_minival": ("val2014", "instances_minival2014"),
    "coco_2014_valminusminival": ("val2014", "instances_valminusminival2014"),
    "coco_2017_train": ("train2017", "instances_train2017"),
    "coco_2017_val": ("val2017", "instances_val2017"),
    "coco_2017_test": ("test2017", "image_info_test2017"),
    "coco_2017_test-dev": ("test2017", "image_info_test-dev2017"),
    "coco_2017_val_100": ("val2017", "instances_val2017_100"),
}


def register_all_coco(root: str) -> None:
    """Register the COCO 2014 and 2017 splits; nothing is read yet.

    Args:
        root: the directory that holds ``coco/annotations/`` and the image directories ``coco/train2017/``, ...
    """
    for name, (images, json_name) in _COCO_SPLITS.items():
        image_root, json_file = (os.path.join(root, "coco", path) for path in (images, f"annotations/{json_name}.json"))
        register_coco_instances(name, _get_builtin_metadata("coco"), json_file, image_root)


register_all_coco(os.path.expanduser(os.getenv("DETECTRON2_DATASETS", "datasets")))
