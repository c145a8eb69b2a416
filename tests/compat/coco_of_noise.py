"""A data set under the names of COCO 2017: a few images of noise with boxes of its 80 classes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from PIL import Image


def register(folder: Path, monkeypatch) -> None:
    """Put it in the place of COCO in detectron2's catalogs until the test ends."""
    rng = np.random.default_rng(0)
    for name in ("coco_2017_train", "coco_2017_val"):
        meta = MetadataCatalog.get(name)
        ids = list(meta.thing_dataset_id_to_contiguous_id)
        images, annotations = [], []
        for i in range(4):
            Image.fromarray(rng.integers(0, 256, (96, 128, 3), dtype=np.uint8)).save(folder / f"{name}_{i}.png")
            images.append({"id": i + 1, "file_name": f"{name}_{i}.png", "height": 96, "width": 128})
            box = {"bbox": [20, 10, 60, 50], "area": 3000, "iscrowd": 0, "category_id": ids[i]}
            annotations.append({"id": i + 1, "image_id": i + 1, **box})
        categories = [{"id": i, "name": n} for i, n in zip(ids, meta.thing_classes, strict=True)]
        path = folder / f"{name}.json"
        path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
        monkeypatch.setattr(DatasetCatalog, "data", {k: v for k, v in DatasetCatalog.data.items() if k != name})
        monkeypatch.setattr(MetadataCatalog, "data", {k: v for k, v in MetadataCatalog.data.items() if k != name})
        register_coco_instances(name, {}, str(path), str(folder))
