"""Matching of checkpoint names to model names."""

import logging
import re
from collections.abc import Mapping
from typing import Any

from fvcore.common.checkpoint import _group_checkpoint_keys, _group_to_str

# Caffe2 (Detectron 1) backbones to ours; applied in this order, after "_" has become ".".
_CAFFE2_RENAMES = (
    (r"^pred\.(?=[bw]$)", "linear."),
    (r"\.b$", ".bias"),
    (r"\.w$", ".weight"),
    (r"bn\.(s|gamma)$", "norm.weight"),
    (r"bn\.(bias|beta)$", "norm.bias"),
    (r"bn\.(rm|running\.mean)$", "norm.running_mean"),
    (r"bn\.(riv|running\.var)$", "norm.running_var"),
    (r"gn\.s$", "norm.weight"),
    (r"gn\.bias$", "norm.bias"),
    (r"^res\.conv1\.norm\.", "conv1.norm."),
    (r"^conv1\.", "stem.conv1."),
    (r"\.branch1\.", ".shortcut."),
    (r"\.branch2a\.", ".conv1."),
    (r"\.branch2b\.", ".conv2."),
    (r"\.branch2c\.", ".conv3."),
)


def align_and_update_state_dicts(
    model_state_dict: Mapping[str, Any], ckpt_state_dict: Mapping[str, Any], c2_conversion: bool = True
) -> dict[str, Any]:
    """Rename the keys of a checkpoint to those of a model that contains the checkpoint's model somewhere inside.

    A model key takes the longest checkpoint key that equals it or its end, from a "." on:
    ``backbone.res2.0.conv1.weight`` takes ``res2.0.conv1.weight`` rather than ``conv1.weight``. A pair of different
    shapes is skipped with a warning.

    Args:
        model_state_dict: of the model.
        ckpt_state_dict: of the checkpoint; tensors or arrays.
        c2_conversion: rename from Caffe2's backbone names first.

    Returns:
        The checkpoint under the model's names; keys that match nothing keep their own.

    Raises:
        ValueError: a checkpoint key matches several keys of the model.
    """
    logger = logging.getLogger(__name__)
    renamed = {_from_caffe2(key) if c2_conversion else key: value for key, value in ckpt_state_dict.items()}
    taken_by: dict[str, str] = {}
    for model_key in sorted(model_state_dict):
        key = _longest_suffix(model_key, renamed)
        if key is None:
            continue
        found, expected = tuple(renamed[key].shape), tuple(model_state_dict[model_key].shape)
        if found != expected:
            logger.warning("%s %s in the checkpoint does not fit %s %s: skipped.", key, found, model_key, expected)
        elif key in taken_by:
            both = f"{taken_by[key]!r} and {model_key!r}"
            raise ValueError(f"Cannot match one checkpoint key to multiple keys in the model: {key!r} matches {both}.")
        else:
            taken_by[key] = model_key
    if not taken_by:
        logger.warning("The checkpoint has no weights for this model")
    else:
        groups = _group_checkpoint_keys(sorted(taken_by.values()))
        summary = "\n".join(f"  {module}{_group_to_str(names)}" for module, names in groups.items())
        logger.info("%d weights of the checkpoint matched by name:\n%s", len(taken_by), summary)
    return {taken_by.get(key, key): value for key, value in renamed.items()}


def _longest_suffix(model_key: str, candidates: Mapping[str, Any]) -> str | None:
    suffix = model_key
    while suffix not in candidates:
        _, dot, suffix = suffix.partition(".")
        if not dot:
            return None
    return suffix


def _from_caffe2(key: str) -> str:
    key = key.replace("_", ".")
    for pattern, replacement in _CAFFE2_RENAMES:
        key = re.sub(pattern, replacement, key)
    return key
