"""Weights written to files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from .disk import replace_file

__all__ = ["write_weights"]


def write_weights(target: Path, state: Mapping[str, Tensor], metadata: Mapping[str, Any] | None = None) -> None:
    """Write a state dict, and plain values beside it, whole or not at all: ``.safetensors``, or else torch's format."""
    if target.suffix != ".safetensors":
        data = {"model": dict(state), **({"metadata": metadata} if metadata else {})}
        return replace_file(target, lambda file: torch.save(data, file))
    texts = {"format": "pt", **({"metadata": json.dumps(metadata)} if metadata else {})}
    # safetensors refuses tensors that share memory.
    copies = {name: value.clone(memory_format=torch.contiguous_format) for name, value in state.items()}
    return replace_file(target, lambda file: file.write(safetensors.torch.save(copies, texts)))
