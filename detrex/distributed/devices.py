"""The device of a process."""

from __future__ import annotations

import torch

from detrex.config import ConfigError

__all__ = ["resolve_device"]


def resolve_device(name: str) -> torch.device:
    """The device of ``train.device``: "auto" is the GPU if there is one; "cuda" is this process's GPU.

    Raises:
        ConfigError: a device that this machine lacks.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as e:
        raise ConfigError(f'train.device={name!r}: {e}. Give "auto", "cpu", "cuda" or "cuda:<index>"') from e
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise ConfigError(f'train.device={name!r}, but PyTorch sees no GPU here; "auto" takes what there is')
        if device.index is not None:
            if device.index >= torch.cuda.device_count():
                raise ConfigError(f"train.device={name!r}, but there are {torch.cuda.device_count()} GPUs")
            torch.cuda.set_device(device)  # kernels launch on the current device
        device = torch.device("cuda", torch.cuda.current_device())
    return device
