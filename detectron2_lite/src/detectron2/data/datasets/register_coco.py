"""Old place of :func:`register_coco_instances`."""

from .coco import register_coco_instances as register_coco_instances
