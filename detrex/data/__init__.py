"""Data: detectron2 records to the detector's input, registration and checks of data sets, the generated demo set."""

from .box_check import degenerate_reason
from .coco_json import CocoData, read_coco_json, write_coco_json
from .dataset_check import CheckedData, check_source
from .dataset_mapper import DetrDatasetMapper, read_image
from .evaluator import build_coco_evaluator
from .findings import KINDS, DatasetError, Finding
from .open_data import open_data, open_folder
from .prepare import DataInfo, category_ids, prepare_data, register_coco_data
from .train_loader import BrokenImagesError, TrainLoader, build_train_loader

__all__ = [
    "KINDS",
    "BrokenImagesError",
    "CheckedData",
    "CocoData",
    "DataInfo",
    "DatasetError",
    "DetrDatasetMapper",
    "Finding",
    "TrainLoader",
    "build_coco_evaluator",
    "build_train_loader",
    "category_ids",
    "check_source",
    "degenerate_reason",
    "open_data",
    "open_folder",
    "prepare_data",
    "read_coco_json",
    "read_image",
    "register_coco_data",
    "write_coco_json",
]
