"""The released official checkpoints give the outputs that they gave elsewhere.

    DETREX_TEST_WEIGHTS=FOLDER python -m pytest -m weights

with the five files as FOLDER/<config>.pth (what tools/model_zoo.py --checkpoints takes too; links are in
projects/deformable_detr/README.md) and 000000039769.jpg of COCO val2017.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.config import instantiate
from PIL import Image
from torch import Tensor

from detrex.checkpoint import Checkpointer
from detrex.config import load_config
from tests.tiny import tiny_detector

CONFIGS = Path(__file__).parents[2] / "projects/deformable_detr/configs"
PUBLISHED = json.loads((Path(__file__).parent / "data/official_outputs.json").read_text())
MODELS = sorted(PUBLISHED.keys() - {"what"})
TOLERANCE = 2e-4  # the figures themselves are within 1e-4
IMAGE, SIZE = "000000039769.jpg", (1066, 800)  # width, height


def read_image(path: Path) -> Tensor:
    """(3, 800, 1066), 0 to 255, RGB, resized by Pillow as transformers did."""
    image = Image.open(path).convert("RGB")
    assert image.size == (640, 480), f"{path} is not the image of the published figures"
    resized = np.asarray(image.resize(SIZE, Image.Resampling.BILINEAR))
    return torch.from_numpy(resized.copy()).permute(2, 0, 1).float()


@torch.no_grad()
def assert_published(model: torch.nn.Module, image: Tensor, published: dict[str, list]) -> None:
    """Compare the first three queries of the last layer with published figures, rounded to four digits."""
    last = model.eval().outputs([image]).layers[-1]
    for name, values in (("logits", last.logits_BQK[0, :3, :3]), ("boxes", last.boxes_BQ4[0, :3, :3])):
        torch.testing.assert_close({name: values}, {name: torch.tensor(published[name])}, rtol=0, atol=TOLERANCE)


@pytest.fixture(scope="module")
def folder() -> Path:
    name = os.environ.get("DETREX_TEST_WEIGHTS")
    if not name:
        pytest.skip("DETREX_TEST_WEIGHTS does not name a folder with the released checkpoints and an image")
    return Path(name)


@pytest.mark.weights
@pytest.mark.parametrize("name", MODELS)
def test_official_checkpoint(name, folder):
    for path in (folder / f"{name}.pth", folder / IMAGE):
        if not path.is_file():
            pytest.skip(f"{path} is not there")
    cfg = load_config(CONFIGS / f"{name}.py")
    cfg.model.num_classes = 91  # all rows, for the figures are of the first three
    model = instantiate(cfg.model)
    Checkpointer(model).load(str(folder / f"{name}.pth"))
    assert_published(model, read_image(folder / IMAGE), PUBLISHED[name])


def test_five_models_are_described():
    assert len(MODELS) == 5
    for name in MODELS:
        assert (CONFIGS / f"{name}.py").is_file()
        for values in PUBLISHED[name].values():
            assert torch.tensor(values).shape == (3, 3)


@torch.no_grad()
def test_the_comparison_sees_a_difference():
    model, image = tiny_detector("refine").eval(), 255 * torch.rand(3, 64, 96)
    last = model.outputs([image]).layers[-1]
    published = {"logits": last.logits_BQK[0, :3, :3].tolist(), "boxes": last.boxes_BQ4[0, :3, :3].tolist()}
    assert_published(model, image, published)
    for name in published:
        published[name][2][1] += 1e-3
        with pytest.raises(AssertionError, match=name):
            assert_published(model, image, published)
        published[name][2][1] -= 1e-3
