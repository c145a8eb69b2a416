"""Old place of :func:`register_coco_instances`."""

from detectron2._subset import missing

from .coco import register_coco_instances

__all__ = ["register_coco_instances"]

__getattr__ = missing(__name__)
