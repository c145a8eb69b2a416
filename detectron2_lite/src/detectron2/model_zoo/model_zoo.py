"""Shared lazy configs by name."""

import os

from detectron2.config import LazyConfig
from omegaconf import DictConfig

_ROOT = os.path.join(os.path.dirname(__file__), "configs")


def get_config_file(config_path: str) -> str:
    """Return the path of a config by its name, such as "common/data/coco.py".

    Raises:
        RuntimeError: there is no such config here; the message lists what there is.
    """
    filename = os.path.join(_ROOT, *config_path.split("/"))
    if not os.path.isfile(filename):
        found = (os.path.join(folder, name) for folder, _, names in os.walk(_ROOT) for name in names)
        known = sorted(os.path.relpath(path, _ROOT) for path in found if path.endswith(".py"))
        raise RuntimeError(f"{config_path} is not available in this model zoo, which has: {', '.join(known)}")
    return filename


def get_config(config_path: str, trained: bool = False) -> DictConfig:
    """Load a config by its name.

    Args:
        config_path: see :func:`get_config_file`.
        trained: not available: there are no models here, only parts of configs.

    Raises:
        RuntimeError: there is no such config, or weights were asked for.
    """
    filename = get_config_file(config_path)
    if trained:
        raise RuntimeError(f"{config_path} has no trained weights: this model zoo holds parts of configs only.")
    return LazyConfig.load(filename)
