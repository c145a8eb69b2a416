"""Names that configs written by an earlier version use, and what they are called now.

``config.yaml`` files, configs in checkpoints and config files of users load with either name.
"""

from __future__ import annotations

import functools
import re

from omegaconf import DictConfig, OmegaConf

from .tree import ConfigError, child_of, keys_of, parameters_of, walk

__all__ = ["ARGUMENTS", "TARGETS", "TRAIN_KEYS", "current_target", "rename_keys"]

# Classes and functions that a config can call, by themselves or by their module.
TARGETS = {
    "detrex.data.dataset_mapper": "detrex.data.mapper",
    "detrex.data.evaluator": "detrex.data.evaluation",
    "detrex.data.prepare": "detrex.data.registry",
    "detrex.data.train_loader": "detrex.data.loader",
    "detrex.engine.LRFactors": "detrex.solver.param_groups.LRFactors",
    "detrex.engine.optim": "detrex.solver.param_groups",
    "detrex.engine.schedule": "detrex.solver.lr_schedule",
    "detrex.engine.with_warmup": "detrex.solver.lr_schedule.with_warmup",
    "detrex.layers.boxes": "detrex.layers.box_ops",
}
# Arguments of a call whose signature has only the new name.
ARGUMENTS = {"hidden_dim": "feedforward_dim", "num_levels": "num_feature_levels"}
TRAIN_KEYS = {"accelerate": "optimizations"}

_REFERENCE = re.compile(r"\$\{(\.*)([\w.]+)\}")


def current_target(name: str) -> str:
    """The name by which a class or function can be imported now."""
    for old, new in TARGETS.items():
        if name == old or name.startswith(f"{old}."):
            return new + name[len(old) :]
    return name


def rename_keys(cfg: DictConfig) -> list[str]:
    """Give keys, targets and references to keys their current names, in place.

    Imports the targets: a config that is not trusted must have been checked before.

    Returns:
        The keys that were renamed, as "old.key -> new".
    """
    renamed: dict[str, str] = {}
    for path, node in reversed(list(walk(cfg))):  # children first: what is assigned is copied
        if not isinstance(node, DictConfig) or OmegaConf.get_type(node) is not dict:
            continue
        target = child_of(node, "_target_") if "_target_" in node.keys() else None
        if isinstance(target, str) and current_target(target) != target:
            node["_target_"] = current_target(target)
        for old, new in _renames(path, node).items():
            node[new] = child_of(node, old)
            del node[old]
            renamed[f"{path}.{old}"] = new
    for path, node in list(walk(cfg)) if renamed else ():
        for key in keys_of(node):
            value = child_of(node, key)
            if isinstance(value, str) and "${" in value:
                node[key] = _REFERENCE.sub(functools.partial(_refer, path=path, renamed=renamed), value)
    return [f"{old} -> {new}" for old, new in renamed.items()]


def _renames(path: str, node: DictConfig) -> dict[str, str]:
    if path == "train":
        return {old: new for old, new in TRAIN_KEYS.items() if old in node.keys()}
    present = {old: new for old, new in ARGUMENTS.items() if old in node.keys()}
    if not present:
        return {}
    try:
        parameters = parameters_of(node, path) or {}
    except ConfigError:  # whoever validates the config says so
        return {}
    return {old: new for old, new in present.items() if old not in parameters and new in parameters}


def _refer(match: re.Match, path: str, renamed: dict[str, str]) -> str:
    """A reference in a value of the node at ``path``, by the current names."""
    dots, parts = match[1], match[2].split(".")
    above = path.split(".") if dots and path else []
    above = above[: len(above) - len(dots) + 1]  # one dot is the node itself
    for i, part in enumerate(parts):
        parts[i] = renamed.get(".".join([*above, *parts[:i], part]), part)
    return f"${{{dots}{'.'.join(parts)}}}"
