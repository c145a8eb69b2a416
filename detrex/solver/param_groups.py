"""Which parameters train, and at which learning rate: recipes as data, which ``LazyConfig.save`` keeps."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from detectron2.config import instantiate
from detectron2.solver.build import get_default_optimizer_params
from omegaconf import DictConfig
from torch import nn

from detrex.config.validation import ConfigError

__all__ = ["LRFactors", "build_optimizer", "freeze", "layer_decay_params", "scale_lr"]

logger = logging.getLogger(__name__)

_SCALING = {"none": lambda ratio: 1.0, "linear": lambda ratio: ratio, "sqrt": math.sqrt}


class LRFactors:
    """Factor of the learning rate by parameter name, for ``get_default_optimizer_params(lr_factor_func=...)``.

    A key matches a name that holds it as whole dotted components: ``backbone`` matches ``backbone.res2.0.weight``,
    not ``my_backbone.weight``; ``transformer.encoder`` matches two components in a row. Factors of several keys that
    match multiply.

    Args:
        factors: key -> factor.
        optional: keys that may match no parameter; for any other key that is an error, found by :meth:`check`.

    Raises:
        ConfigError: a negative factor, or an optional key without one.
    """

    def __init__(self, *, factors: Mapping[str, float], optional: Sequence[str] = ()):
        self.factors = {str(key): float(value) for key, value in factors.items()}
        self.optional = frozenset(optional)
        negative = [key for key, value in self.factors.items() if not value >= 0]
        if negative:
            raise ConfigError(f"learning-rate factor of {negative[0]!r} is {self.factors[negative[0]]}: must be >= 0")
        unknown = self.optional - self.factors.keys()
        if unknown:
            raise ConfigError(f"optional learning-rate factors {sorted(unknown)} have no factor")

    def __call__(self, name: str) -> float:
        """The factor of the parameter ``name``; 1.0 where no key matches."""
        factor = 1.0
        for key, value in self.factors.items():
            if _has_component(name, key):
                factor *= value
        return factor

    def check(self, names: Iterable[str]) -> None:
        """Raise ConfigError if a key that is not optional matches none of the parameters' ``names``."""
        names = list(names)
        for key in self.factors.keys() - self.optional:
            if not any(_has_component(name, key) for name in names):
                top = sorted({name.split(".")[0] for name in names})
                raise ConfigError(
                    f"learning-rate factor of {key!r} matches no parameter; their names begin with "
                    f"{', '.join(top)}. Correct the key, or list it in lr_factor_func.optional"
                )


def _has_component(name: str, key: str) -> bool:
    return f".{key}." in f".{name}."


def layer_decay_params(
    *,
    model: nn.Module,
    base_lr: float,
    layer_decay: float,
    backbone: str = "backbone",
    weight_decay_norm: float | None = 0.0,
    lr_factor_func: Callable[[str], float] | None = None,
) -> list[dict[str, Any]]:
    """Parameter groups with a learning rate that falls from layer to layer towards the input (BEiT, arXiv 2106.08254).

    Layer i of n in the backbone gets the factor ``layer_decay ** (n - i)``, the rest of the model 1. What the
    architecture's recipes do not decay, such as position tables, is not decayed.

    Args:
        model: a detector whose backbone has ``layer_ids()``, as :class:`detrex.modeling.backbone.TimmBackbone` has.
        base_lr: learning rate of the parameters after the backbone.
        layer_decay: factor from one layer to the one before, in (0, 1].
        backbone: name of the backbone in the model.
        weight_decay_norm: weight decay of norms; None decays them as everything else.
        lr_factor_func: further factors by parameter name, such as :class:`LRFactors`.

    Raises:
        ConfigError: another ``layer_decay``, or a backbone that does not know its layers.
    """
    if not 0 < layer_decay <= 1:
        raise ConfigError(f"layer_decay={layer_decay} must be greater than 0 and at most 1")
    part = model.get_submodule(backbone)
    if not hasattr(part, "layer_ids"):
        raise ConfigError(
            f"layer_decay: {type(part).__name__} does not know its layers: use TimmBackbone, or learning-rate factors"
        )
    layers = {f"{backbone}.{name}": layer for name, layer in part.layer_ids().items()}
    num_layers = max(layers.values()) + 1

    def factor(name: str) -> float:
        given = 1.0 if lr_factor_func is None else lr_factor_func(name)
        return given * layer_decay ** (num_layers - layers.get(name, num_layers))

    plain = {f"{backbone}.{name}" for name in part.no_weight_decay()}
    groups = get_default_optimizer_params(
        model, base_lr=base_lr, weight_decay_norm=weight_decay_norm, lr_factor_func=factor
    )
    undecayed = {parameter for name, parameter in model.named_parameters() if name in plain}
    return list(_split(groups, undecayed))


def _split(groups: Iterable[dict[str, Any]], undecayed: set[nn.Parameter]) -> Iterator[dict[str, Any]]:
    """The groups, each parted into what is decayed as the group says and what is not."""
    for group in groups:
        decayed = [p for p in group["params"] if p not in undecayed]
        rest = [p for p in group["params"] if p in undecayed]
        if decayed:
            yield {**group, "params": decayed}
        if rest:
            yield {**group, "params": rest, "weight_decay": 0.0}


def freeze(model: nn.Module, parts: Sequence[str]) -> list[nn.Module]:
    """Exclude parts of a model from training, before its optimizer is built.

    Args:
        model: whose parameters get ``requires_grad=False``.
        parts: names of modules or parameters, matched like the keys of :class:`LRFactors`.

    Returns:
        The frozen modules: the caller keeps them in evaluation mode, so that running statistics and dropout rest too.

    Raises:
        ConfigError: a name that matches no parameter.
    """
    counts = dict.fromkeys(parts, 0)
    for name, parameter in model.named_parameters():
        for part in parts:
            if _has_component(name, part):
                parameter.requires_grad_(False)
                counts[part] += parameter.numel()
    for part, count in counts.items():
        if not count:
            top = ", ".join(sorted({name.split(".")[0] for name, _ in model.named_parameters()}))
            raise ConfigError(f"train.freeze: {part!r} matches no parameter; their names begin with {top}")
        logger.info("train.freeze: %s, %.2f M parameters", part, count / 1e6)
    return [module for name, module in model.named_modules() if any(_has_component(name, part) for part in parts)]


def build_optimizer(cfg: DictConfig, model: nn.Module) -> torch.optim.Optimizer:
    """Build ``cfg.optimizer`` over the parameters of ``model`` that are trained.

    Raises:
        ConfigError: a learning-rate factor that matches no parameter, or no parameter to train.
    """
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ConfigError("the model has no parameter to train")
    factors = instantiate(cfg.optimizer.params.get("lr_factor_func"))
    if isinstance(factors, LRFactors):
        factors.check(name for name, _ in model.named_parameters())
    cfg.optimizer.params.model = model
    try:
        return instantiate(cfg.optimizer)
    finally:
        del cfg.optimizer.params.model  # the config stays something that can be written to a file


def scale_lr(cfg: DictConfig) -> None:
    """Replace ``cfg.optimizer.lr``, which goes with ``train.lr_scaling.base_batch_size``, by that of the run's batch.

    By the rule "linear" (Goyal et al. 2017, for SGD) or "sqrt" (Malladi et al. 2022, for Adam and its like); "none"
    leaves it alone.

    Raises:
        ConfigError: another rule, or a base of no images.
    """
    rule, base = cfg.train.lr_scaling.rule, cfg.train.lr_scaling.base_batch_size
    if rule not in _SCALING or base < 1:
        raise ConfigError(
            f"train.lr_scaling: rule={rule!r} must be one of {', '.join(_SCALING)}, base_batch_size={base} at least 1"
        )
    batch, lr = cfg.dataloader.train.total_batch_size, cfg.optimizer.lr
    if rule == "none":
        return
    cfg.optimizer.lr = lr * _SCALING[rule](batch / base)
    logger.info(
        "optimizer.lr: %g for a batch of %d -> %g for %d (train.lr_scaling.rule=%s)",
        lr,
        base,
        cfg.optimizer.lr,
        batch,
        rule,
    )
