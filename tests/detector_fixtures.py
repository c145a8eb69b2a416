"""Fixtures of tests that use a checkpoint of a small detector."""

from __future__ import annotations

import pytest
import torch
from detector_workspace import config
from detectron2.config import instantiate
from detectron2.data import DatasetCatalog, MetadataCatalog

import detrex
from detrex.checkpoint import Checkpointer
from detrex.checkpoint.metadata import checkpoint_metadata
from detrex.data import category_ids, prepare_data
from detrex.data.datasets.shapes import ShapesParameters, make_demo_data
from detrex.inference.detector import Detector


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    """Generated images, and a checkpoint of a small model with random weights as training would write it."""
    folder = tmp_path_factory.mktemp("detector")
    make_demo_data(folder / "data", ShapesParameters(num_train=2, num_val=6, image_size=96))
    cfg = config(folder)
    info = prepare_data(cfg)
    torch.manual_seed(0)
    metadata = checkpoint_metadata(cfg, class_names=info.class_names, category_ids=category_ids(info.test_name))
    Checkpointer(instantiate(cfg.model), str(folder), metadata=metadata).save("model")
    yield folder
    for name in (info.train_name, info.test_name):
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


@pytest.fixture(scope="module")
def detector(workspace) -> Detector:
    return detrex.Detector.from_checkpoint(workspace / "model.pth", device="cpu")
