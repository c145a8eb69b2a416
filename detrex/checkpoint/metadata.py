"""What a checkpoint keeps beside weights: class names, category ids and the config of its detector."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from functools import reduce
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from detrex.config import ConfigError
from detrex.config.serialization import to_plain

from .dialects.errors import CheckpointError
from .reading import class_names, read_values

__all__ = ["SECTIONS", "checkpoint_metadata", "read_metadata"]

logger = logging.getLogger(__name__)

SECTIONS = ("model", "dataloader.test.mapper", "train.optimizations.evaluation")


def checkpoint_metadata(cfg: DictConfig, *, class_names: Sequence[str], category_ids: Sequence[int]) -> dict[str, Any]:
    """What a checkpoint keeps for :meth:`Detector.from_checkpoint`, as plain values.

    Args:
        cfg: of the run, as it trains. class_names, category_ids: of its data.

    Returns:
        ``class_names``, ``category_ids`` and ``config``: the sections of the run's config that make a detector, with
        no path of this machine. Without ``config``, and with a warning, where a part of it is absent or has no name.
    """
    metadata: dict[str, Any] = {"class_names": list(map(str, class_names)), "category_ids": list(category_ids)}
    sections: dict[str, Any] = {}
    try:
        for key in SECTIONS:
            value = to_plain(OmegaConf.select(cfg, key, throw_on_missing=True), key)
            if value is None:
                raise ConfigError(f"the config has no {key}")
            *path, last = key.split(".")
            reduce(lambda place, part: place.setdefault(part, {}), path, sections)[last] = value
    except (ConfigError, OmegaConfBaseException) as e:
        logger.warning("Checkpoints will hold no config, detrex.Detector will have to be given it: %s", e)
        return metadata
    return {**metadata, "config": sections}


def read_metadata(path: str) -> dict[str, Any]:
    """What :func:`checkpoint_metadata` made, of a file of any origin; its weights are not read.

    Args:
        path: of a local file.

    Returns:
        ``class_names``, ``category_ids`` and ``config``: (), () and None where the file has none.

    Raises:
        CheckpointError: the file cannot be read, or one of them is of another type.
    """
    checkpoint = read_values(path)
    metadata = checkpoint.get("metadata")
    metadata = metadata if isinstance(metadata, Mapping) else {}
    names, ids, config = class_names(checkpoint), metadata.get("category_ids", ()), metadata.get("config")
    if not isinstance(ids, (list, tuple)) or not all(type(value) is int for value in ids):
        raise CheckpointError(
            f"checkpoint {path}: metadata.category_ids must be a list of integers: {str(ids)[:100]!a}"
        )
    if config is not None and not isinstance(config, dict):
        raise CheckpointError(f"checkpoint {path}: metadata.config must be a dict, not a {type(config).__name__}")
    return {"class_names": names, "category_ids": tuple(ids), "config": config}
