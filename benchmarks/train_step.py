"""One training step of two-stage Deformable DETR (ResNet-50) beside transformers' model.

    python benchmarks/train_step.py [--cases 2x480x640] [--device cuda] [--profile]

A step is forward, losses, backward, clipping and AdamW. Ours also has the loss on the encoder's proposals, which
transformers lacks.
"""

from __future__ import annotations

import os
import sys

if __name__ == "__main__":  # without this folder, in which operator.py would hide the standard library's module
    sys.path.pop(0)
sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from collections.abc import Callable, Sequence

import torch
from torch import nn

import detrex.inference.optimizations
from benchmarks.compare import main


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


def optimize(model: nn.Module, optimizations: Sequence[str] | None) -> nn.Module:
    """Our model with the optimizations pulled."""
    detrex.inference.optimizations.TrainingOptimizations(model, optimizations)
    return model


if __name__ == "__main__":
    main("train_step", "One training step, ours and transformers'", prepare, optimize)
