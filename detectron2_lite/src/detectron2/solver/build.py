"""Parameter groups for optimizers."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import nn

_NORMS = (
    nn.modules.batchnorm._BatchNorm,
    nn.modules.instancenorm._InstanceNorm,
    nn.GroupNorm,
    nn.LayerNorm,
    nn.LocalResponseNorm,
)


def get_default_optimizer_params(
    model: nn.Module,
    base_lr: float | None = None,
    weight_decay: float | None = None,
    weight_decay_norm: float | None = None,
    bias_lr_factor: float | None = 1.0,
    weight_decay_bias: float | None = None,
    lr_factor_func: Callable[[str], float] | None = None,
    overrides: Mapping[str, Mapping[str, float]] | None = None,
) -> list[dict[str, Any]]:
    """Return the parameter groups of a model, one per combination of hyper-parameters.

    Frozen parameters are left out, shared ones appear once.

    Args:
        model: the model, or a part of it.
        base_lr: learning rate; None leaves it to the optimizer.
        weight_decay: likewise.
        weight_decay_norm: weight decay of normalisation layers.
        bias_lr_factor: factor on the learning rate of parameters named "bias".
        weight_decay_bias: weight decay of parameters named "bias".
        lr_factor_func: from the full name of a parameter to a factor on its learning rate.
        overrides: hyper-parameters by the last part of a parameter's name, such as ``{"cls_token": {"lr": 0.1}}``; they
            win over everything above.

    Raises:
        ValueError: a factor without ``base_lr``, or two sources of values for biases.
    """
    overrides = {name: dict(values) for name, values in (overrides or {}).items()}
    bias = {}
    if bias_lr_factor is not None and bias_lr_factor != 1.0:
        if base_lr is None:
            raise ValueError("bias_lr_factor multiplies base_lr, which is not given")
        bias["lr"] = base_lr * bias_lr_factor
    if weight_decay_bias is not None:
        bias["weight_decay"] = weight_decay_bias
    if bias:
        if "bias" in overrides:
            raise ValueError("Conflicting overrides for 'bias': by its own arguments and in overrides")
        overrides["bias"] = bias
    if lr_factor_func is not None and base_lr is None:
        raise ValueError("lr_factor_func multiplies base_lr, which is not given")

    given = {"lr": base_lr, "weight_decay": weight_decay}
    defaults = {key: value for key, value in given.items() if value is not None}
    groups, seen = [], set()
    for module_name, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            if not parameter.requires_grad or parameter in seen:
                continue
            seen.add(parameter)
            values = dict(defaults)
            if weight_decay_norm is not None and isinstance(module, _NORMS):
                values["weight_decay"] = weight_decay_norm
            if lr_factor_func is not None:
                values["lr"] *= lr_factor_func(f"{module_name}.{name}")
            groups.append({"params": [parameter], **values, **overrides.get(name, {})})
    return reduce_param_groups(groups)


def reduce_param_groups(params: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Merge groups of equal hyper-parameters: optimizers process a group at once, so few groups make them quick.

    Args:
        params: groups with "params", hyper-parameters, and optionally "param_names". A parameter may occur in several
            groups, of which the later ones override the earlier.
    """
    merged: dict[Any, dict[str, Any]] = {}  # by parameter
    for group in params:
        values = {key: value for key, value in group.items() if key not in ("params", "param_names")}
        names = group.get("param_names")
        for index, parameter in enumerate(group["params"]):
            entry = merged.setdefault(parameter, {})
            entry.update(values)
            if names is not None:
                entry["param_names"] = names[index]

    groups: dict[tuple[Any, ...], dict[str, Any]] = {}  # by hyper-parameters
    for parameter, values in merged.items():
        name = values.pop("param_names", None)
        group = groups.setdefault(tuple(values.items()), {**values, "params": []})
        group["params"].append(parameter)
        if name is not None:
            group.setdefault("param_names", []).append(name)
    return list(groups.values())
