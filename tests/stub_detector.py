"""A detector of a few hundred parameters that keeps the model contract, and a data set of twelve images for it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from detectron2.structures import Boxes, Instances
from PIL import Image
from torch import Tensor, nn

from detrex.modeling.batching import WholeBatch

SIDE = 64
NUM_BOXES = 3


class StubDetector(nn.Module):
    """Predicts ``NUM_BOXES`` boxes per image from pooled features.

    The losses are means over images, so that N processes with a batch of B/N each compute what one with B does.

    Args:
        num_classes: K. nan_from: from this training forward on, the loss is NaN.
        batch_norm: BatchNorm in place of LayerNorm, whose running statistics are of the images that a process saw.
    """

    def __init__(self, *, num_classes: int = 80, nan_from: int | None = None, batch_norm: bool = False):
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 8, 8, 8), nn.ReLU())
        self.norm = nn.BatchNorm1d(8) if batch_norm else nn.LayerNorm(8)
        self.head = nn.Linear(8, NUM_BOXES * (4 + num_classes))
        nn.init.normal_(self.head.weight, std=0.02)
        nn.init.zeros_(self.head.bias)
        self.num_classes, self.nan_from = num_classes, nan_from
        self.register_buffer("calls", torch.zeros((), dtype=torch.long), persistent=False)

    def forward(self, inputs: list[dict], whole_batch: WholeBatch | None = None) -> dict[str, Tensor] | list[dict]:
        images = torch.stack([x["image"].to(self.head.weight.device).float() / 255 for x in inputs])
        features = self.norm(self.backbone(images).mean((2, 3)))
        out = self.head(features).unflatten(1, (NUM_BOXES, 4 + self.num_classes)).float()
        boxes, logits = out[..., :4].sigmoid(), out[..., 4:]
        if self.training:
            losses = self._losses(boxes, logits, inputs)
            share = 1.0 if whole_batch is None else len(inputs) / whole_batch.num_images
            return {name: loss * share for name, loss in losses.items()}
        return [self._instances(b, p, x) for b, p, x in zip(boxes, logits, inputs, strict=True)]

    def _losses(self, boxes: Tensor, logits: Tensor, inputs: list[dict]) -> dict[str, Tensor]:
        self.calls += 1
        bbox, label = [], []
        for i, x in enumerate(inputs):
            target = x["instances"].gt_boxes.tensor.to(boxes) / SIDE
            center_size = torch.cat([(target[:, :2] + target[:, 2:]) / 2, target[:, 2:] - target[:, :2]], 1)
            bbox.append((boxes[i] - center_size[:1]).abs().mean())
            wanted = torch.zeros_like(logits[i])
            wanted[:, x["instances"].gt_classes[0]] = 1
            label.append(nn.functional.binary_cross_entropy_with_logits(logits[i], wanted))
        losses = {"loss_bbox": 5 * torch.stack(bbox).mean(), "loss_class": torch.stack(label).mean()}
        if self.nan_from is not None and self.calls > self.nan_from:
            losses["loss_class"] = losses["loss_class"] * float("nan")
        return losses

    def _instances(self, boxes: Tensor, logits: Tensor, x: dict) -> dict:
        center, size = boxes[:, :2], boxes[:, 2:]
        scores, classes = logits.sigmoid().max(1)
        result = Instances((x["height"], x["width"]))
        result.pred_boxes = Boxes(torch.cat([center - size / 2, center + size / 2], 1) * SIDE)
        result.scores, result.pred_classes = scores, classes
        return {"instances": result}


def make_data(folder: Path, *, num_images: int = 12, seed: int = 0) -> Path:
    """Images with one large box near the middle, and ``data.json`` in COCO format with two categories."""
    rng = np.random.default_rng(seed)
    images, annotations = [], []
    for i in range(num_images):
        x, y = rng.integers(12, 22, 2).tolist()
        w, h = rng.integers(26, 36, 2).tolist()
        pixels = rng.integers(0, 120, (SIDE, SIDE, 3), dtype=np.uint8)
        pixels[y : y + h, x : x + w, i % 2] += 120
        Image.fromarray(pixels).save(folder / f"{i}.png")
        images.append({"id": i + 1, "file_name": f"{i}.png", "height": SIDE, "width": SIDE})
        box = {"bbox": [x, y, w, h], "area": w * h, "iscrowd": 0, "category_id": 1 + i % 2}
        annotations.append({"id": i + 1, "image_id": i + 1, **box})
    categories = [{"id": 1, "name": "red"}, {"id": 2, "name": "green"}]
    path = folder / "data.json"
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return path


CONFIG = """
from detectron2.config import LazyCall as L
from detrex.config import get_config
from stub_detector import StubDetector

dataloader = get_config("common/data/custom.py").dataloader
dataloader.train.mapper.augmentation = []
dataloader.train.mapper.augmentation_with_crop = None
dataloader.test.mapper.augmentation = []
dataloader.train.num_workers = dataloader.test.num_workers = 0
dataloader.train.total_batch_size = 4
dataloader.data.image_root = {root!r}
dataloader.data.train_json = dataloader.data.val_json = {json!r}

model = L(StubDetector)(num_classes=80)
optimizer = get_config("common/optim.py").detrex_zoo
optimizer.lr = 0.01
lr_multiplier = get_config("common/coco_schedule.py").lr_multiplier_50ep
train = get_config("common/train.py").train
train.max_iter = "4ep"
train.eval_period = "2ep"
train.log_period = 2
train.output_dir = {output!r}
train.device = "cpu"
train.seed = 7
train.report = False
"""


def write_config(folder: Path, *, num_images: int = 12) -> Path:
    """Data and a config for it in ``folder``; the run's output goes to ``folder/output``."""
    data = folder / "data"
    data.mkdir()
    json_file = make_data(data, num_images=num_images)
    path = folder / "config.py"
    path.write_text(CONFIG.format(root=str(data), json=str(json_file), output=str(folder / "output")))
    return path
