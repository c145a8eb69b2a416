"""Data: detectron2 records to the detector's input, registration and checks of data sets, the generated demo set."""

from detrex.data.checks.boxes import degenerate_reason
from detrex.data.checks.findings import KINDS, DatasetError, Finding
from detrex.data.formats.coco_folder import read_coco_json
from detrex.data.formats.coco_json import CocoData, write_coco_json
from detrex.data.formats.reader import open_data, open_folder

from .coco_metrics import BoxMetrics
from .dataset_check import CheckedData, check_source
from .evaluation import build_coco_evaluator, ground_truth, metric_names
from .loader import BrokenImagesError, TrainLoader, build_train_loader
from .mapper import DetrDatasetMapper, read_image
from .registry import DataInfo, category_ids, prepare_data, register_coco_data

__all__ = [
    "KINDS",
    "BoxMetrics",
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
    "ground_truth",
    "metric_names",
    "open_data",
    "open_folder",
    "prepare_data",
    "read_coco_json",
    "read_image",
    "register_coco_data",
    "write_coco_json",
]
