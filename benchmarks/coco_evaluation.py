"""COCO's average precision of 5,000 images with 300 detections each, by hotcoco and by pycocotools.

    python benchmarks/coco_evaluation.py [--images 5000] [--detections 300]

From detections in an array and a parsed ground truth to precision and recall: what ``detrex.data.coco_metrics`` does
after parsing. Objects are about COCO's: 7 an image, 80 classes, 1% crowds. Both backends' numbers are compared.
"""

from __future__ import annotations

import os
import sys

if __name__ == "__main__":  # without this folder, in which operator.py would hide the standard library's module
    sys.path.pop(0)
sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

import argparse

import numpy as np
import torch

from benchmarks.common import clock, environment, write_results
from detrex.data.coco_metrics import evaluate_boxes

CLASSES = 80
SPREAD = 0.05  # of the corners of detections around their objects


def problem(images: int, detections: int) -> tuple[dict, np.ndarray]:
    """Ground truth and detections: four near each object, the others anywhere."""
    rng = np.random.default_rng(0)
    annotations, rows = [], np.empty((images, detections, 7))
    rows[..., 0] = np.arange(images)[:, None]
    rows[..., 1:3] = rng.uniform(0, 600, (images, detections, 2))
    rows[..., 3:5] = np.exp(rng.uniform(2, 6, (images, detections, 2)))
    rows[..., 5] = rng.random((images, detections)) ** 4
    rows[..., 6] = rng.integers(0, CLASSES, (images, detections))
    for image in range(images):
        for number in range(min(rng.poisson(7.3), detections // 4)):
            bbox, class_id = rows[image, 4 * number, 1:5].copy(), rng.integers(CLASSES)
            annotations.append(
                {"id": len(annotations) + 1, "image_id": image + 1, "category_id": int(class_id) + 1,
                 "bbox": bbox.tolist(), "area": float(bbox[2] * bbox[3]), "iscrowd": int(rng.random() < 0.01)}
            )  # fmt: skip
            near = slice(4 * number, 4 * number + 4)
            rows[image, near, 1:5] = bbox * (1 + rng.normal(0, SPREAD, (4, 4)))
            rows[image, near, 5], rows[image, near, 6] = rng.random(4), class_id
    content = {
        "images": [{"id": image + 1} for image in range(images)],
        "categories": [{"id": k + 1, "name": str(k + 1)} for k in range(CLASSES)],
        "annotations": annotations,
    }
    return content, rows.reshape(-1, 7)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--detections", type=int, default=300, help="on each image")
    options = parser.parse_args()
    content, detections = problem(options.images, options.detections)
    rows, results = [], {}
    for name in ("hotcoco", "pycocotools"):

        def run(name: str = name) -> None:
            results[name] = evaluate_boxes(content, detections, use_fast_impl=name == "hotcoco")

        if name == "hotcoco":
            run()  # imports
        cpu_s, wall_s = clock(run, torch.device("cpu"))
        rows.append(
            {"backend": results[name].backend, "CPU s": cpu_s, "s": wall_s, "AP": results[name].summary()["AP"]}
        )
    fast, slow = results.values()
    difference = np.abs(fast.precision_TRKA - slow.precision_TRKA).max()
    env = environment(torch.device("cpu"), ("hotcoco", "pycocotools", "numpy"))
    env |= {"images": options.images, "detections on each": options.detections}
    env |= {"objects": len(content["annotations"]), "largest difference of a precision": difference}
    write_results("coco_evaluation", "COCO's average precision, from arrays to AP", env, rows)


if __name__ == "__main__":
    main()
