"""A run whose backbone starts from published weights: when they are fetched, and what uses its checkpoint."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog

from detrex import Detector
from detrex.cli.train import EXIT_CONFIG, build_parser
from detrex.cli.train import main as run
from detrex.data.datasets.shapes import ShapesParameters, make_demo_data
from detrex.engine.train import main

timm = pytest.importorskip("timm", reason="pip install 'detrex[timm]'")

CONFIG = """
from detectron2.config import LazyCall as L

from detrex.config import get_config
from detrex.modeling.backbone import TimmBackbone

base = get_config("projects/deformable_detr/configs/custom_small.py")
dataloader, lr_multiplier, model, optimizer, train = (
    base.dataloader, base.lr_multiplier, base.model, base.optimizer, base.train
)
del base
model.backbone = L(TimmBackbone)(
    model_name="resnet10t.c3_in1k", pretrained=True, norm_layer="FrozenBN", freeze_at=5, out_indices=(3, 4)
)
model.neck.input_shapes = model.neck.in_features = None
model.pixel_mean = model.pixel_std = None
model.transformer.encoder.num_layers = model.transformer.decoder.num_layers = 1
dataloader.data.root = "{data}"
dataloader.train.num_workers = dataloader.test.num_workers = 0
dataloader.train.total_batch_size = 2
train.output_dir = "{output}"
train.max_iter, train.eval_period, train.warmup, train.report = 2, 0, 0, False
"""


@pytest.fixture
def config(tmp_path) -> Path:
    make_demo_data(tmp_path / "data", ShapesParameters(num_train=4, num_val=2, image_size=96))
    path = tmp_path / "config.py"
    path.write_text(CONFIG.format(data=tmp_path / "data", output=tmp_path / "output"))
    names = set(DatasetCatalog.list())
    yield path
    for name in set(DatasetCatalog.list()) - names:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


@pytest.fixture
def published(monkeypatch) -> dict:
    """What the hub would give; ``calls`` counts how often it is asked."""
    torch.manual_seed(7)
    hub = {"state": timm.create_model("resnet10t").state_dict(), "calls": 0}

    def fetch(*args, **kwargs):
        hub["calls"] += 1
        return dict(hub["state"])

    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", fetch)
    return hub


def train(config: Path, *options: str) -> dict:
    return main(build_parser().parse_args(["--config-file", str(config), "--num-gpus", "0", *options]))


def test_weights_are_fetched_by_a_fresh_run_only(config, published, tmp_path):
    train(config)
    assert published["calls"] == 1
    path = tmp_path / "output" / "model_final.pth"
    state = torch.load(path, weights_only=True)["model"]  # everything in the backbone is frozen
    backbone = {
        name.removeprefix("backbone.timm_model."): x for name, x in state.items() if name.startswith("backbone")
    }
    assert backbone
    assert all(torch.equal(x, published["state"][name]) for name, x in backbone.items())

    train(config, "--resume", "train.max_iter=3")
    train(config, "--eval-only", f"train.init_checkpoint={path}")
    train(config, f"train.init_checkpoint={path}", f"train.output_dir={tmp_path / 'tuned'}")
    detector = Detector.from_checkpoint(path, device="cpu")
    assert published["calls"] == 1
    assert detector.model.pixel_mean.flatten().tolist() == pytest.approx([123.675, 116.28, 103.53])
    assert len(detector.predict(str(next((tmp_path / "data" / "val").iterdir())), threshold=0)) > 0


def test_without_a_network_training_ends_with_one_line(config, monkeypatch, capsys):
    def unreachable(*args, **kwargs):
        raise ConnectionError(101, "Network is unreachable")

    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", unreachable)
    assert run(["--config-file", str(config), "--num-gpus", "0"]) == EXIT_CONFIG
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert "model.backbone: the weights of resnet10t.c3_in1k cannot be fetched" in last
    assert "checkpoint_path=" in last
