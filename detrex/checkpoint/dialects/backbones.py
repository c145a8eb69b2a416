"""Backbones: rows that the detectors' dialects share, and dialects of files that hold an ImageNet backbone alone.

The names of the latter are those below ``backbone.``; whoever loads them finds that out.
"""

from __future__ import annotations

from .rename import Dialect, Row

__all__ = ["RESNET", "SWIN", "SWIN_TIMM", "classic_resnet", "hugging_face_resnet", "swin"]


def classic_resnet(prefix: str, ours: str = "backbone.") -> tuple[Row, ...]:
    """torchvision's names, which timm, the official repositories and MMDetection share."""
    return (
        Row(f"{prefix}conv1.weight", f"{ours}stem.conv1.weight"),
        Row(f"{prefix}bn1.{{s}}", f"{ours}stem.conv1.norm.{{s}}"),
        Row(f"{prefix}layer{{i}}.{{j}}.conv{{k}}.weight", f"{ours}res{{i+1}}.{{j}}.conv{{k}}.weight"),
        Row(f"{prefix}layer{{i}}.{{j}}.bn{{k}}.{{s}}", f"{ours}res{{i+1}}.{{j}}.conv{{k}}.norm.{{s}}"),
        Row(f"{prefix}layer{{i}}.{{j}}.downsample.0.weight", f"{ours}res{{i+1}}.{{j}}.shortcut.weight"),
        Row(f"{prefix}layer{{i}}.{{j}}.downsample.1.{{s}}", f"{ours}res{{i+1}}.{{j}}.shortcut.norm.{{s}}"),
        Row(f"{prefix}{{rest}}num_batches_tracked", None),
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


def swin(prefix: str, ours: str = "backbone.") -> tuple[Row, ...]:
    """The official Swin's names, which are detectron2's too; masks of shifted windows are computed."""
    return (
        Row(f"{prefix}{{rest}}.attn_mask", None),
        Row(f"{prefix}patch_embed.{{rest}}", f"{ours}patch_embed.{{rest}}"),
        Row(f"{prefix}layers.{{rest}}", f"{ours}layers.{{rest}}"),
        Row(f"{prefix}norm{{i}}.{{p}}", f"{ours}norm{{i}}.{{p}}"),
    )


# A detector normalises each map that it uses; a classifier has one norm, after the last stage.
_MAP_NORMS = r"(^|\.)norm\d\.(weight|bias)$"
_POSITION_INDEX = r"\.relative_position_index$"  # computed from the window's size

RESNET = Dialect(
    name="ResNet of torchvision or timm",
    signature=("conv1.weight", "layer{i}.0.conv1.weight"),
    rows=(Row("fc.{p}", None), *classic_resnet("", "")),
)

SWIN = Dialect(
    name="official Swin Transformer",
    signature=("patch_embed.proj.weight", "layers.0.blocks.0.attn.qkv.weight", "layers.0.downsample.norm.weight"),
    rows=(Row("norm.{p}", None), Row("head.{p}", None), *swin("", "")),
    fresh=(_MAP_NORMS,),
)

SWIN_TIMM = Dialect(
    name="Swin Transformer of timm",
    signature=("patch_embed.proj.weight", "layers.0.blocks.0.attn.qkv.weight", "layers.3.downsample.norm.weight"),
    # timm merges patches before a stage, others after it.
    rows=(
        Row("norm.{p}", None),
        Row("head.{rest}", None),
        Row("layers.{i}.downsample.{rest}", "layers.{i-1}.downsample.{rest}"),
        *swin("", ""),
    ),
    fresh=(_MAP_NORMS, _POSITION_INDEX),
)
