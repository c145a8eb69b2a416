"""Rows for the backbones, shared by the dialects; their foreign names follow a prefix."""

from __future__ import annotations

from .rename import Row

__all__ = ["classic_resnet", "hugging_face_resnet"]


def classic_resnet(prefix: str, ours: str = "backbone.") -> tuple[Row, ...]:
    """torchvision's names, which timm, the official repositories and MMDetection share."""
    return (
        Row(f"{prefix}conv1.weight", f"{ours}stem.conv1.weight"),
        Row(f"{prefix}bn1.{{s}}", f"{ours}stem.conv1.norm.{{s}}"),
        Row(f"{prefix}layer{{i}}.{{j}}.conv{{k}}.weight", f"{ours}res{{i+1}}.{{j}}.conv{{k}}.weight"),
        Row(f"{prefix}layer{{i}}.{{j}}.bn{{k}}.{{s}}", f"{ours}res{{i+1}}.{{j}}.conv{{k}}.norm.{{s}}"),
        Row(f"{prefix}layer{{i}}.{{j}}.downsample.0.weight", f"{ours}res{{i+1}}.{{j}}.shortcut.weight"),
        Row(f"{prefix}layer{{i}}.{{j}}.downsample.1.{{s}}", f"{ours}res{{i+1}}.{{j}}.shortcut.norm.{{s}}"),
        Row(f"{prefix}{{rest}}.num_batches_tracked", None),
    )


def hugging_face_resnet(prefix: str, ours: str = "backbone.") -> tuple[Row, ...]:
    """transformers' own ResNet."""
    stage, own = f"{prefix}encoder.stages.{{i}}.layers.{{j}}.", f"{ours}res{{i+2}}.{{j}}."
    return (
        Row(f"{prefix}embedder.embedder.convolution.weight", f"{ours}stem.conv1.weight"),
        Row(f"{prefix}embedder.embedder.normalization.{{s}}", f"{ours}stem.conv1.norm.{{s}}"),
        Row(f"{stage}layer.{{k}}.convolution.weight", f"{own}conv{{k+1}}.weight"),
        Row(f"{stage}layer.{{k}}.normalization.{{s}}", f"{own}conv{{k+1}}.norm.{{s}}"),
        Row(f"{stage}shortcut.convolution.weight", f"{own}shortcut.weight"),
        Row(f"{stage}shortcut.normalization.{{s}}", f"{own}shortcut.norm.{{s}}"),
    )
