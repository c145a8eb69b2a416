"""One inference of two-stage Deformable DETR (ResNet-50), post-processing included, beside transformers' model.

    python benchmarks/inference.py [--cases 1x800x1333] [--device cuda] [--optimizations all] [--profile]

Weights and images are the same, and so are the answers: scores of both are compared before anything is measured.
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
from benchmarks.detectors import hugging_face_detections


def prepare(contestant: str, model: nn.Module, inputs: list[dict], theirs: dict) -> Callable[[], object]:
    """A contestant's inference."""
    model.eval()

    @torch.inference_mode()
    def run():
        if contestant == "ours":
            return model(inputs)
        return hugging_face_detections(model, theirs["pixel_values"])

    return run


def optimize(model: nn.Module, optimizations: Sequence[str] | None) -> nn.Module:
    """Our model with the optimizations pulled."""
    return detrex.inference.optimizations.optimize_model(model, optimizations)


if __name__ == "__main__":
    main("inference", "One inference, ours and transformers'", prepare, optimize)
