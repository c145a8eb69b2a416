"""Parameter groups and learning-rate schedules."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from detectron2.solver import LRMultiplier, WarmupParamScheduler, get_default_optimizer_params
from detectron2.solver.build import reduce_param_groups
from fvcore.common.param_scheduler import CosineParamScheduler, LinearParamScheduler, MultiStepParamScheduler
from torch import nn

from .conftest import lite_only


class _Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2))
        self.head = nn.Linear(2, 2)
        self.shared = self.head
        self.frozen = nn.Linear(2, 2).requires_grad_(False)


def _names(model: nn.Module, group: dict[str, Any]) -> set[str]:
    names = {parameter: name for name, parameter in model.named_parameters()}
    return {names[parameter] for parameter in group["params"]}


def _by(model: nn.Module, key: str, **kwargs: Any) -> dict[Any, set[str]]:
    return {group.get(key): _names(model, group) for group in get_default_optimizer_params(model, **kwargs)}


ALL = {"backbone.0.weight", "backbone.0.bias", "backbone.1.weight", "backbone.1.bias", "head.weight", "head.bias"}


def test_one_group_by_default() -> None:
    model = _Model()
    (group,) = get_default_optimizer_params(model)
    assert set(group) == {"params"}  # the optimizer's own values hold
    assert _names(model, group) == ALL
    assert len(group["params"]) == len(ALL)


def test_norms_and_biases() -> None:
    model = _Model()
    norms = {"backbone.1.weight", "backbone.1.bias"}
    assert _by(model, "weight_decay", weight_decay=0.1, weight_decay_norm=0.0) == {0.1: ALL - norms, 0.0: norms}
    biases = {name for name in ALL if name.endswith("bias")}
    assert _by(model, "lr", base_lr=1.0, bias_lr_factor=2.0) == {1.0: ALL - biases, 2.0: biases}
    assert _by(model, "weight_decay", weight_decay_bias=0.5) == {None: ALL - biases, 0.5: biases}


def test_factors_get_full_names_and_overrides_last_parts() -> None:
    model = _Model()
    seen = []

    def factor(name: str) -> float:
        seen.append(name)
        return 0.1 if name.startswith("backbone") else 1.0

    groups = get_default_optimizer_params(
        model, base_lr=1.0, lr_factor_func=factor, overrides={"bias": {"lr": 7.0, "weight_decay": 0.0}}
    )
    assert set(seen) == ALL
    rates = {group["lr"]: _names(model, group) for group in groups}
    assert rates[7.0] == {name for name in ALL if name.endswith("bias")}
    assert rates[0.1] == {"backbone.0.weight", "backbone.1.weight"}
    assert rates[1.0] == {"head.weight"}


def test_factors_need_a_learning_rate() -> None:
    for kwargs in ({"lr_factor_func": lambda name: 1.0}, {"bias_lr_factor": 2.0}):
        with pytest.raises(ValueError, match="base_lr"):
            get_default_optimizer_params(_Model(), **kwargs)
    with pytest.raises(ValueError, match="bias"):
        get_default_optimizer_params(_Model(), weight_decay_bias=0.0, overrides={"bias": {"lr": 1.0}})


@lite_only("adds 'bias' to the caller's overrides, and then calls them conflicting")
def test_overrides_stay_the_callers() -> None:
    overrides: dict[str, dict[str, float]] = {}
    for _ in range(2):
        get_default_optimizer_params(_Model(), weight_decay_bias=0.0, overrides=overrides)
    assert overrides == {}


def test_reduce_param_groups() -> None:
    a, b, c = (nn.Parameter(torch.zeros(1)) for _ in range(3))
    groups = reduce_param_groups(
        [
            {"params": [a, b, c], "lr": 1.0, "param_names": ["a", "b", "c"]},
            {"params": [b], "lr": 2.0},
        ]
    )
    assert [(group["lr"], group["param_names"]) for group in groups] == [(1.0, ["a", "c"]), (2.0, ["b"])]
    assert groups[0]["params"][1] is c


def _rates(multiplier: Any, iterations: int, lr: float = 5.0) -> list[float]:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(0))], lr=lr)
    scheduler = LRMultiplier(optimizer, multiplier, iterations)
    rates = []
    for _ in range(iterations):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


def test_warmup_then_multistep() -> None:
    steps = MultiStepParamScheduler([1, 0.1, 0.01], milestones=[10, 15, 20])
    rates = _rates(WarmupParamScheduler(steps, 0.001, 5 / 30), 30)
    assert rates[:5] == pytest.approx([0.005, 1.004, 2.003, 3.002, 4.001])
    assert rates[5:15] == pytest.approx([5.0] * 10)  # the milestones are relative: 10/20 of 30
    assert rates[15:22] == pytest.approx([0.5] * 7)
    assert rates[23:] == pytest.approx([0.05] * 7)


def test_warmup_follows_or_rescales_the_schedule() -> None:
    linear = LinearParamScheduler(1, 0)
    fixed = WarmupParamScheduler(linear, 0.0, 0.5)
    assert [fixed(x) for x in (0, 0.25, 0.5, 0.75)] == pytest.approx([0, 0.25, 0.5, 0.25])
    rescaled = WarmupParamScheduler(linear, 0.5, 0.5, rescale_interval=True)
    assert [rescaled(x) for x in (0, 0.25, 0.5, 0.75)] == pytest.approx([0.5, 0.75, 1, 0.5])
    constant = WarmupParamScheduler(CosineParamScheduler(1, 0), 0.1, 0.5, "constant")
    assert [constant(x) for x in (0, 0.49, 0.5)] == pytest.approx([0.1, 0.1, 0.5])
    with pytest.raises(ValueError, match="quadratic"):
        WarmupParamScheduler(linear, 0.1, 0.1, "quadratic")


def test_lr_multiplier_state() -> None:
    groups = [{"params": [nn.Parameter(torch.zeros(0))], "lr": lr} for lr in (1.0, 0.1)]
    optimizer = torch.optim.SGD(groups)
    scheduler = LRMultiplier(optimizer, LinearParamScheduler(1, 0), 10)
    for _ in range(4):
        optimizer.step()
        scheduler.step()
    assert scheduler.state_dict() == {"base_lrs": [1.0, 0.1], "last_epoch": 4}
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.6, 0.06])

    resumed = LRMultiplier(optimizer, LinearParamScheduler(1, 0), 10)
    resumed.load_state_dict(scheduler.state_dict())
    resumed.step()
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.5, 0.05])
    with pytest.raises(ValueError, match="ParamScheduler"):
        LRMultiplier(optimizer, scheduler, 10)
