"""Data: detectron2 records to the detector's input, registration and checks of data sets, the generated demo set."""

from .coco_json import CocoData, DatasetError, read_coco_json, write_coco_json
from .coco_records import degenerate_reason
from .dataset_mapper import DetrDatasetMapper, read_image
from .evaluator import build_coco_evaluator
from .prepare import DataInfo, prepare_data, register_coco_data

__all__ = [
    "CocoData",
    "DataInfo",
    "DatasetError",
    "DetrDatasetMapper",
    "build_coco_evaluator",
    "degenerate_reason",
    "prepare_data",
    "read_coco_json",
    "read_image",
    "register_coco_data",
    "write_coco_json",
]
