"""A small detector with random weights and its data, for the tests of what uses a checkpoint."""

from __future__ import annotations

from pathlib import Path

from detrex.config import load_config

ROOT = Path(__file__).resolve().parents[1]
CONFIG = str(ROOT / "projects/deformable_detr/configs/custom_small.py")


def config(workspace):
    """Images of 96 pixels are enlarged to 150."""
    edge = "dataloader.test.mapper.augmentation.0.short_edge_length=150"
    return load_config(CONFIG, [f"dataloader.data.root={workspace / 'data'}", edge, "model.num_select=40"])


def images(workspace) -> list[str]:
    return [str(p) for p in sorted((workspace / "data" / "val").iterdir())]
