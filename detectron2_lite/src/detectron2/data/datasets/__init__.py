"""Readers of data set formats, and the standard splits."""

from detectron2._subset import missing

from . import builtin  # registers the standard splits
from .coco import convert_to_coco_json, load_coco_json, load_sem_seg, register_coco_instances

__all__ = ["builtin", "convert_to_coco_json", "load_coco_json", "load_sem_seg", "register_coco_instances"]

__getattr__ = missing(__name__)
