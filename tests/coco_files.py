"""A tiny COCO-format data set as a Python object."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
DATA_CONFIGS = ROOT / "configs" / "common" / "data"
SIZE = (60, 80)  # height, width


def coco_content(num_images: int = 4, *, seed: int = 0, first_id: int = 1) -> dict[str, Any]:
    """Images 1..n with two or three boxes each of the classes cat, dog, bird."""
    rng = np.random.default_rng(seed)
    height, width = SIZE
    images, annotations = [], []
    for i in range(num_images):
        images.append({"id": i + 1, "file_name": f"{i}.png", "height": height, "width": width})
        for j in range(2 + i % 2):
            x, y, w, h = (float(v) for v in (*rng.uniform(0, 30, 2), *rng.uniform(8, 30, 2)))
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": i + 1,
                    "category_id": first_id + (i + j) % 3,
                    "bbox": [x, y, w, h],
                    "area": w * h,
                    "iscrowd": 0,
                }
            )
    categories = [{"id": first_id + k, "name": name} for k, name in enumerate(("cat", "dog", "bird"))]
    return {"images": images, "annotations": annotations, "categories": categories}
