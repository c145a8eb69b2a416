"""Peak memory and time of one training step of a config on one random image, on the CPU or a GPU.

    python benchmarks/training_memory.py --config-file projects/h_deformable_detr/configs/NAME.py \
        --image-size 800 1333 model.backbone.use_checkpoint=True model.transformer.encoder.use_checkpoint=True

A step is forward, losses, backward, clipping and the config's optimizer. On the CPU it is the resident memory
of the process: weights, gradients, optimizer state and libraries included.
"""

from __future__ import annotations

import os
import sys

if __name__ == "__main__":  # without this folder, in which operator.py would hide the standard library's module
    sys.path.pop(0)
sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

import argparse
import resource
import time

import torch
from detectron2.config import instantiate
from detectron2.structures import Boxes, Instances

import detrex_ops
from detrex.config import load_config
from detrex.solver.param_groups import build_optimizer


def main() -> None:
    """Parse the arguments, step once, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-file", required=True)
    parser.add_argument("--image-size", nargs=2, type=int, default=(800, 1333), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--objects", type=int, default=7, help="COCO's mean number of objects (%(default)s)")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("opts", nargs="*", default=[])
    args = parser.parse_args()
    backend = detrex_ops.backend(args.device)
    torch.manual_seed(0)
    cfg = load_config(args.config_file, args.opts)
    model = instantiate(cfg.model).to(args.device).train()
    optimizer = build_optimizer(cfg, model)
    built = peak_gib(args.device)
    batch = [random_image(*args.image_size, args.objects, cfg.model.num_classes)]
    start = time.perf_counter()
    loss = sum(model(batch).values())
    forward = time.perf_counter() - start
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), cfg.train.clip_grad.params.max_norm)
    optimizer.step()
    loss = loss.item()
    print(
        f"loss {loss:.3f}; peak {peak_gib(args.device):.2f} GiB ({built:.2f} when built); "
        f"forward {forward:.0f} s, step {time.perf_counter() - start:.0f} s; torch {torch.__version__}, "
        f"deformable attention by {backend}"
    )


def random_image(height: int, width: int, objects: int, num_classes: int) -> dict:
    """One image in detectron2's format."""
    low = torch.rand(objects, 2) * 0.6
    corners = torch.cat([low, low + 0.05 + 0.3 * torch.rand(objects, 2)], 1)
    instances = Instances((height, width))
    instances.gt_boxes = Boxes(corners * torch.tensor([width, height, width, height]))
    instances.gt_classes = torch.randint(0, num_classes, (objects,))
    return {"image": torch.randint(0, 256, (3, height, width), dtype=torch.uint8), "instances": instances}


def peak_gib(device: str) -> float:
    """Largest memory so far."""
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated(device) / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


if __name__ == "__main__":
    main()
