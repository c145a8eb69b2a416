"""One training step of two-stage Deformable DETR (ResNet-50) beside transformers' model.

    python benchmarks/train_step.py [--cases 2x480x640] [--device cuda] [--profile]

A step is forward, losses, backward, clipping and AdamW. Ours also has the loss on the encoder's proposals, which
transformers lacks.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import compare  # first: it sets up paths and threads
import torch
from torch import nn


def prepare(contestant: str, model: nn.Module, inputs: list[dict], theirs: dict) -> Callable[[], object]:
    """A contestant's training step."""
    model.train()
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-6)  # small, so that repeats stay alike

    def run():
        loss = sum(model(inputs).values()) if contestant == "ours" else model(**theirs).loss
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 0.1)
        optimizer.step()

    return run


def accelerate(model: nn.Module, args: argparse.Namespace) -> None:
    """Apply the levers to our model."""


if __name__ == "__main__":
    compare.main("train_step", "One training step, ours and transformers'", prepare, accelerate)
