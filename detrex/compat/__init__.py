"""What was written for other code: config files of the original detrex, and the classic signature of the operator.

Importing this package lets :func:`detrex.config.load_config` read config files of the original detrex.
"""

from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig

from detrex.config import register_loader

from .names import is_original_config
from .operator import MSDeformAttnFunction, MultiScaleDeformableAttnFunction, ms_deform_attn

__all__ = ["MSDeformAttnFunction", "MultiScaleDeformableAttnFunction", "ms_deform_attn"]


def _load(path: Path, overrides: Sequence[str]) -> DictConfig:
    from .original import load_original_config  # with all that rewriting takes, which few need

    return load_original_config(path, overrides)


register_loader(is_original_config, _load)
