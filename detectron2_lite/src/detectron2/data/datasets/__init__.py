"""Readers of data set formats, and the standard splits."""

from detectron2._subset import missing

from . import builtin  # registers the standard splits
from .coco import load_coco_json, load_sem_seg, register_coco_instances

__all__ = ["builtin", "load_coco_json", "load_sem_seg", "register_coco_instances"]

__getattr__ = missing(__name__)
