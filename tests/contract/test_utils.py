"""The smaller utilities."""

from __future__ import annotations

import pickle
import pkgutil
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import detectron2
import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, Instances
from detectron2.utils import comm
from detectron2.utils.analysis import (
    FlopCountAnalysis,
    activation_count_operators,
    find_unused_parameters,
    flop_count_operators,
    parameter_count,
    parameter_count_table,
)
from detectron2.utils.collect_env import collect_env_info
from detectron2.utils.env import seed_all_rng
from detectron2.utils.file_io import PathManager
from detectron2.utils.memory import retry_if_cuda_oom
from detectron2.utils.registry import Registry
from detectron2.utils.serialize import PicklableWrapper
from torch import Tensor, nn

from .conftest import lite_only

# comm: one process; test_distributed.py has several


def test_communication_of_one_process() -> None:
    assert (comm.get_rank(), comm.get_world_size(), comm.get_local_rank(), comm.get_local_size()) == (0, 1, 0, 1)
    assert comm.is_main_process()
    assert comm.all_gather("x") == ["x"]
    assert comm.gather("x") == ["x"]
    losses = {"a": torch.ones(())}
    assert comm.reduce_dict(losses) == losses
    comm.synchronize()
    assert 0 <= comm.shared_random_seed() < 2**31
    assert comm._LOCAL_PROCESS_GROUP is None
    with pytest.raises(AssertionError, match="create_local_process_group"):
        comm.get_local_process_group()


# env


def test_seeds() -> None:
    def draw() -> tuple[Any, ...]:
        return random.random(), np.random.rand(), torch.rand(()).item()  # noqa: NPY002

    seed_all_rng(3)
    first = draw()
    assert draw() != first
    seed_all_rng(3)
    assert draw() == first
    seed_all_rng(None)
    assert draw() != first


def test_environment_table() -> None:
    text = collect_env_info()
    for part in (torch.__version__, np.__version__, "detectron2", "GPU available"):
        assert part in text


# file_io


def test_path_manager(tmp_path: Path) -> None:
    folder = str(tmp_path / "a" / "b")
    PathManager.mkdirs(folder)
    PathManager.mkdirs(folder)
    with PathManager.open(f"{folder}/f.txt", "w") as f:
        f.write("x")
    assert PathManager.isdir(folder)
    assert PathManager.isfile(f"{folder}/f.txt")
    assert PathManager.exists(folder)
    assert PathManager.ls(folder) == ["f.txt"]
    assert PathManager.get_local_path(f"{folder}/f.txt") == f"{folder}/f.txt"


def test_detectron2_urls(monkeypatch: pytest.MonkeyPatch) -> None:
    from iopath.common.file_io import HTTPURLHandler

    asked = []
    monkeypatch.setattr(HTTPURLHandler, "_get_local_path", lambda self, path, **kwargs: asked.append(path) or "local")
    assert PathManager.get_local_path("detectron2://ImageNetPretrained/x.pkl") == "local"
    assert asked == ["https://dl.fbaipublicfiles.com/detectron2/ImageNetPretrained/x.pkl"]


# registry, serialize, memory


def test_registry() -> None:
    registry = Registry("R")

    @registry.register()
    class A: ...

    registry.register(dict)
    assert registry.get("A") is A
    assert registry.get("dict") is dict
    assert "A" in registry
    assert "B" not in registry
    with pytest.raises(KeyError, match=r"'B'.*'R'"):
        registry.get("B")
    with pytest.raises(AssertionError):
        registry.register(A)


def test_picklable_wrapper() -> None:
    offset = 2
    wrapper = PicklableWrapper(PicklableWrapper(lambda x: x + offset))
    assert pickle.loads(pickle.dumps(wrapper))(1) == 3
    assert PicklableWrapper([1]).index(1) == 0
    with pytest.raises(AttributeError):
        _ = PicklableWrapper([1]).no_such


def test_retry_out_of_memory() -> None:
    calls = []

    def fails_twice(x: int, y: int = 0) -> int:
        calls.append((x, y))
        if len(calls) < 3:
            raise RuntimeError("CUDA out of memory. Tried to allocate")
        return x + y

    assert retry_if_cuda_oom(fails_twice)(1, y=2) == 3
    assert calls == [(1, 2)] * 3

    def fails(x: int) -> None:
        calls.append(x)
        raise RuntimeError("something else")

    calls.clear()
    with pytest.raises(RuntimeError, match="something else"):
        retry_if_cuda_oom(fails)(1)
    assert calls == [1]


@lite_only("knows one wording of one error")
def test_retry_of_torchs_own_error_type() -> None:
    calls = []

    def fails_once() -> int:
        calls.append(1)
        if len(calls) == 1:
            raise torch.OutOfMemoryError("Allocation on device 0 would exceed allowed memory.")
        return 5

    assert retry_if_cuda_oom(fails_once)() == 5


# analysis


class _Detector(nn.Module):
    """Takes list[dict]; gives losses in training and Instances otherwise."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, bias=False)
        self.unused = nn.Linear(1, 1)

    def forward(self, batched_inputs: list[dict[str, Any]]) -> Any:
        features = self.conv(torch.stack([sample["image"] for sample in batched_inputs]))
        if self.training:
            return {"loss_a": features.mean(), "loss_b": features.square().mean()}
        boxes = features.flatten(2).sum(1)[:, :4]
        size = (batched_inputs[0]["height"], 8) if "height" in batched_inputs[0] else (8, 8)
        return [{"instances": Instances(size, pred_boxes=Boxes(box[None]))} for box in boxes]


INPUTS: list[dict[str, Any]] = [{"image": torch.ones(3, 8, 8), "height": 8, "file_name": "x.jpg"}]
MULTIPLY_ADDS = 3 * 3 * 3 * 4 * 6 * 6


def test_flops() -> None:
    model = _Detector().eval()
    analysis = FlopCountAnalysis(model, INPUTS)
    assert analysis.total() == MULTIPLY_ADDS
    # Below the adapter that stands around the model, whatever the host calls it.
    (by_conv,) = [flops for name, flops in analysis.by_module().items() if name.split(".")[-1] == "conv"]
    assert by_conv == MULTIPLY_ADDS
    model.train()
    assert flop_count_operators(model, INPUTS)["conv"] == pytest.approx(MULTIPLY_ADDS / 1e9)
    assert model.training


def test_activations() -> None:
    model = _Detector().train()
    assert activation_count_operators(model, INPUTS)["conv"] == pytest.approx(4 * 6 * 6 / 1e6)
    assert model.training
    with pytest.raises(AssertionError):
        activation_count_operators(model, INPUTS * 2)


@lite_only("the mode is not restored after an exception")
def test_analysis_restores_the_mode() -> None:
    class Fails(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise RuntimeError("on purpose")

    model = Fails().train()
    with pytest.raises(RuntimeError, match="on purpose"):
        activation_count_operators(model, INPUTS)
    assert model.training


def test_parameters() -> None:
    model = _Detector()
    assert parameter_count(model)["conv"] == 108
    assert parameter_count(model)[""] == 110
    assert "conv" in parameter_count_table(model)
    assert find_unused_parameters(model.train(), INPUTS) == ["unused.weight", "unused.bias"]
    assert all(parameter.grad is None for parameter in model.parameters())


# imports


@lite_only("nine DeprecationWarnings on import")
def test_imports_are_silent() -> None:
    modules = sorted(m.name for m in pkgutil.walk_packages(detectron2.__path__, "detectron2."))
    assert len(modules) > 80
    subprocess.run([sys.executable, "-W", "error", "-c", f"import {', '.join(modules)}"], check=True)
