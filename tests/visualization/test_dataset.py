"""detrex visualize dataset: what the model is trained on."""

from __future__ import annotations

import re

import numpy as np
import pytest
from coco_files import coco_content
from PIL import Image

from detrex.cli.visualize import main
from detrex.inference.drawing import BoxLayer
from detrex.visualization.dataset import DataSample, picture

CONFIG = """
import detectron2.data.transforms as T
from detectron2.config import LazyCall as L
from detrex.config import get_config

dataloader = get_config("common/data/custom.py").dataloader
dataloader.train.mapper.augmentation = [L(T.ResizeShortestEdge)(short_edge_length=(30, 90), sample_style="choice")]
dataloader.train.mapper.augmentation_with_crop = None
dataloader.train.total_batch_size = 4
train = get_config("common/train.py").train
train.seed = 0
"""


@pytest.fixture
def command(folder, write) -> list[str]:
    config = folder / "config.py"
    config.write_text(CONFIG)
    data = {"image_root": folder, "train_json": write(coco_content()), "val_json": write(coco_content(), "val.json")}
    overrides = [f"dataloader.data.{key}={value}" for key, value in data.items()]
    return ["dataset", "--config-file", str(config), "--output", str(folder / "out"), *overrides]


def test_annotations_are_drawn_as_they_lie_on_the_disk(folder, command, capsys):
    assert main([*command, "--source", "annotations"]) == 0
    assert "4 images with 10 objects" in capsys.readouterr().out
    assert sorted(p.name for p in (folder / "out").iterdir()) == [*(f"{i + 1}_{i}.png" for i in range(4)), "grid.png"]
    with Image.open(folder / "out" / "grid.png") as grid:
        assert grid.width > 4 * 320


def test_loader_gives_batches_without_end(folder, command, capsys):
    assert main([*command, "--limit", "9"]) == 0
    assert "9 images" in capsys.readouterr().out
    sizes = {Image.open(p).size for p in (folder / "out").glob("[0-9]_*.png")}
    assert len(sizes) <= 3  # every image of a batch is padded to the same size


def test_what_does_not_fill_its_batch_is_striped():
    image = np.full((40, 200, 3), 128, dtype=np.uint8)
    sample = DataSample(image, (60, 240), BoxLayer(np.zeros((0, 4)), [], []), "a/b.png", "title")
    pixels = np.asarray(picture(sample))
    body = pixels[-60:]
    assert (body[:40, :200] == 128).all()
    for part in (body[40:], body[:, 200:]):
        assert set(np.unique(part)) == {205, 225}


def test_seed_repeats_the_samples(folder, command):
    contents = []
    for name in "ab":
        assert main([*command, f"--output={folder / name}", "--limit", "4"]) == 0
        contents.append([p.read_bytes() for p in sorted((folder / name).iterdir())])
    assert contents[0] == contents[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["dataloader.data.val_json=none.json"], "none.json"), (["dataloader.dat.x=1"], "did you mean")],
)
def test_wrong_input_is_named(command, capsys, arguments, message):
    assert main([*command, *arguments]) == 2
    assert re.search(message, capsys.readouterr().err)
