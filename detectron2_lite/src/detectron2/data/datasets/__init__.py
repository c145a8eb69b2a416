"""Readers of data set formats, and the standard splits."""

from . import builtin  # registers the standard splits
from .coco import convert_to_coco_json, load_coco_json, load_sem_seg, register_coco_instances
