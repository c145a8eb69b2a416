"""Training steps of configs beside each other, in turns: what a part of a model costs.

    python benchmarks/config_steps.py --output hybrid_step --image-size 480 640 \
        projects/h_deformable_detr/configs/deformable_detr_baseline_r50_two_stage_12ep_tricks.py \
        projects/h_deformable_detr/configs/h_deformable_detr_r50_two_stage_12ep.py

A step is forward, losses, backward, clipping and the config's optimizer, on random images. Ratios are to the first one.
"""

from __future__ import annotations

import os
import sys

if __name__ == "__main__":  # without this folder, in which operator.py would hide the standard library's module
    sys.path.pop(0)
sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

import argparse
from collections.abc import Callable

import torch
from detectron2.config import instantiate

import detrex_ops
from benchmarks.common import PeakMemory, clock, environment, in_turns, write_results
from benchmarks.training_memory import random_image
from detrex.config import load_config
from detrex.inference.optimizations import TrainingOptimizations
from detrex.solver.param_groups import build_optimizer


def build_step(config: str, args: argparse.Namespace) -> Callable[[], None]:
    """One training step of a config's model."""
    torch.manual_seed(0)
    cfg = load_config(config, args.opts)
    model = instantiate(cfg.model).to(args.device).train()
    TrainingOptimizations(model)
    optimizer = build_optimizer(cfg, model)
    batch = [random_image(*args.image_size, args.objects, cfg.model.num_classes) for _ in range(args.batch)]

    def step() -> None:
        loss = sum(model(batch).values())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), cfg.train.clip_grad.params.max_norm)
        optimizer.step()

    return step


def main() -> None:
    """Parse the arguments, measure, write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("configs", nargs="+", help="config files")
    parser.add_argument("--output", required=True, help="name of the result files")
    parser.add_argument("--image-size", nargs=2, type=int, default=(480, 640), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--objects", type=int, default=7, help="on an image; COCO's mean (%(default)s)")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="cpu", type=torch.device)
    parser.add_argument("--opts", nargs="*", default=[], help="overrides of every config")
    args = parser.parse_args()
    env = environment(args.device)
    steps = {config: build_step(config, args) for config in args.configs}
    memory = {name: PeakMemory(args.device).of(step) for name, step in steps.items()}
    timings = in_turns({name: lambda step=step: clock(step, args.device) for name, step in steps.items()}, args.repeats)
    first = next(iter(timings.values()))
    rows = [
        {
            "config": name,
            "CPU s": timing.cpu_s,
            "wall s": timing.wall_s,
            "CPU ratio": timing.cpu_s / first.cpu_s,
            "wall ratio": timing.wall_s / first.wall_s,
            "peak MiB": round(memory[name]),
        }
        for name, timing in timings.items()
    ]
    env |= {
        "image": f"{args.batch} x {args.image_size[0]} x {args.image_size[1]}, {args.objects} objects",
        "threads": torch.get_num_threads(),
        "operator": detrex_ops.backend(args.device),
        "repeats": args.repeats,
    }
    write_results(args.output, "One training step of each config", env, rows)


if __name__ == "__main__":
    main()
