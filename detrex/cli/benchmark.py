"""``detrex benchmark``: how long a config's training step and inference take on this machine."""

from __future__ import annotations

import argparse
import platform
from collections.abc import Sequence
from os.path import expanduser
from typing import Any

import torch
from detectron2.config import instantiate
from omegaconf import DictConfig
from torch import nn

import detrex_ops
from detrex.analysis.complexity import coco_test_sizes, measure_speed
from detrex.distributed.devices import resolve_device
from detrex.distributed.errors import with_exit_status
from detrex.engine.gradients import autocast
from detrex.engine.train import config_from_args
from detrex.inference.optimizations import (
    OPTIMIZATIONS,
    TRAINING_OPTIMIZATIONS,
    TrainingOptimizations,
    optimize_model,
    parse_optimizations,
)
from detrex.solver.param_groups import build_optimizer
from detrex.utils.text import count_of

__all__ = ["build_parser", "main"]

TASKS = ("training", "inference")

_EPILOG = """
examples:
  detrex benchmark --config-file projects/deformable_detr/configs/deformable_detr_r50_50ep.py
  detrex benchmark --config-file CONFIG.py --tasks training --batch-size 4 train.amp.enabled=true

The images are random, with the sizes of COCO's as they are resized for testing; loading them is not included.

exit status: 0, 2 wrong command line or config, 5 out of memory
"""


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="detrex benchmark",
        description="Time a config's training step and inference on this machine, with the config's optimizations.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config-file", type=expanduser, required=True, metavar="FILE", help="config of a run")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS), help="(both)")
    parser.add_argument("--batch-size", type=int, default=1, metavar="N", help="images of a batch (%(default)s)")
    parser.add_argument("--image-size", nargs=2, type=int, metavar=("HEIGHT", "WIDTH"), help="of all images, in pixels")
    parser.add_argument("--repeats", type=int, default=10, metavar="N", help="batches to measure (%(default)s)")
    parser.add_argument("opts", nargs="*", metavar="KEY=VALUE", help="overrides, such as train.device=cpu")
    parser.set_defaults(num_gpus=1, eval_only=False, resume=False)
    return parser


@with_exit_status()
def main(argv: Sequence[str] | None = None) -> int:
    """Measure as the command line says; returns the exit status."""
    parser = build_parser()
    args = parser.parse_intermixed_args(argv)
    if min(args.batch_size, args.repeats, *(args.image_size or [1])) < 1:
        parser.error("--batch-size, --repeats and --image-size must be at least 1")
    cfg = config_from_args(args)
    device = resolve_device(cfg.train.device)
    print(_describe(device))
    model = instantiate(cfg.model).to(device)
    sizes = [tuple(args.image_size)] if args.image_size else list(coco_test_sizes())
    settings = {"batch_size": args.batch_size, "repeats": args.repeats}
    batches = f"median of {count_of(args.repeats, 'batch')} of {count_of(args.batch_size, 'image')}"
    for task in args.tasks:
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        if task == "inference":
            chosen = parse_optimizations(cfg.train.optimizations.evaluation, OPTIMIZATIONS)
            function = optimize_model(model, chosen)
        else:
            function = TrainingStep(cfg, model, device)
        seconds = measure_speed(function, sizes, device=device, num_classes=cfg.model.num_classes, **settings)
        peak = f", peak {torch.cuda.max_memory_allocated(device) / 2**30:.2f} GiB" if device.type == "cuda" else ""
        print(f"{task:9}: {seconds * 1e3:.1f} ms per image, {1 / seconds:.2f} images/s ({batches}){peak}", flush=True)
    return 0


class TrainingStep:
    """Forward pass, losses, gradients, clipping and the optimizer's update, as ``cfg.train`` describes them.

    Args:
        cfg: config of a run. model: on ``device``; it is trained.
    """

    def __init__(self, cfg: DictConfig, model: nn.Module, device: torch.device):
        chosen = parse_optimizations(cfg.train.optimizations.training, TRAINING_OPTIMIZATIONS)
        TrainingOptimizations(model, chosen)
        self.model = model.train()
        self.optimizer = build_optimizer(cfg, model)
        self.parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        self.clip_grad = dict(cfg.train.clip_grad.params) if cfg.train.clip_grad.enabled else None
        self.device, self.amp_dtype = device, cfg.train.amp.dtype if cfg.train.amp.enabled else None

    def __call__(self, images: list[dict[str, Any]]) -> None:
        with autocast(self.device, self.amp_dtype):
            losses = self.model(images)
        self.optimizer.zero_grad(set_to_none=True)
        sum(losses.values()).backward()
        if self.clip_grad is not None:
            nn.utils.clip_grad_norm_(self.parameters, **self.clip_grad)
        self.optimizer.step()


def _describe(device: torch.device) -> str:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    threads = f", {count_of(torch.get_num_threads(), 'thread')}" if device.type == "cpu" else ""
    return f"on {name}{threads}, torch {torch.__version__}, deformable attention by {detrex_ops.backend(device)}"
