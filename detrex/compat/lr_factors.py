"""A function from the original's parameter names to learning-rate factors, as data that a config can hold."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from detectron2.config import instantiate
from omegaconf import DictConfig

from detrex.checkpoint.dialects import DETECTORS, from_ours, our_constants
from detrex.config import ConfigError
from detrex.config.instantiation import meta_device
from detrex.solver.param_groups import LRFactors

__all__ = ["factors_by_name", "original_names"]


def original_names(model: DictConfig, *, refine: bool, two_stage: bool) -> dict[str, str]:
    """Our name of each trained parameter of a model -> the name under which the original's optimizer meets it.

    Raises:
        ConfigError: a value that the model refuses.
    """
    try:
        with meta_device():
            module = instantiate(model)
    except (AssertionError, ValueError) as e:  # torch's own modules assert
        raise ConfigError(f"model: {e}") from e
    zoo = next(dialect for dialect in DETECTORS if dialect.name == "detrex zoo")
    state = {name: torch.zeros((), device="cpu").expand(value.shape) for name, value in module.state_dict().items()}
    names = {ours: name for name, (ours, *_) in from_ours(zoo, state, our_constants(state)).source.items()}
    result = {}
    for ours, parameter in module.named_parameters():
        if parameter.requires_grad:
            name = names[ours]
            if (refine and name.startswith("bbox_embed.")) or (two_stage and name.startswith("class_embed.")):
                name = f"transformer.decoder.{name}"  # where it hangs as well, and is met first
            result[ours] = name
    return result


def factors_by_name(function: Callable[[str], float], names: Mapping[str, str]) -> dict[str, float]:
    """Parts of our names with their factors, for :class:`LRFactors`, that give each parameter what the function does.

    Args:
        function: from a name of the original to a factor.
        names: our name -> the original's.
    """
    wanted = {ours: float(function(name)) for ours, name in names.items()}
    depth: dict[str, int] = {}
    groups: dict[str, set[str]] = {}
    for name in wanted:
        for level, part in enumerate(name.split(".")):
            depth[part] = min(level, depth.get(part, level))
            groups.setdefault(part, set()).add(name)
    left = {name: factor for name, factor in wanted.items() if factor != 1}
    factors = {}
    for part in sorted(groups, key=lambda part: (part.isdigit(), depth[part])):
        values = {wanted[name] for name in groups[part]}
        if len(values) == 1 and groups[part] <= left.keys():
            factors[part] = values.pop()
            left = {name: factor for name, factor in left.items() if name not in groups[part]}
    factors |= left  # one by one
    result = LRFactors(factors=factors)
    if any(result(name) != factor for name, factor in wanted.items()):
        raise ConfigError("optimizer.params.lr_factor_func: its factors cannot be told by parts of parameter names")
    return factors
