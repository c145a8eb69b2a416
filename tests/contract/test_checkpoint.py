"""Checkpoint files: what is written, what can be read, what is refused."""

from __future__ import annotations

import argparse
import os
import pickle
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer, PeriodicCheckpointer
from detectron2.checkpoint.c2_model_loading import align_and_update_state_dicts
from torch import nn

from .conftest import lite_only


def _model(value: float = 0.0) -> nn.Module:
    backbone = nn.Sequential(OrderedDict(conv=nn.Conv2d(1, 2, 1)))
    model = nn.Sequential(OrderedDict(backbone=backbone, head=nn.Linear(2, 2)))
    for parameter in model.parameters():
        nn.init.constant_(parameter, value)
    return model


def _weights(value: float = 1.0) -> dict[str, torch.Tensor]:
    return _model(value).state_dict()


def _values(model: nn.Module) -> set[float]:
    return {value for parameter in model.parameters() for value in parameter.unique().tolist()}


class _Stateful:
    def __init__(self, state: Any) -> None:
        self.state = state

    def state_dict(self) -> dict[str, Any]:
        return {"state": self.state}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.state = state_dict["state"]


def test_save_and_load(tmp_path: Path) -> None:
    part = _Stateful(3)
    DetectionCheckpointer(_model(2.0), str(tmp_path), part=part).save("name", iteration=7, note="x")
    assert (tmp_path / "last_checkpoint").read_text() == "name.pth"
    content = torch.load(tmp_path / "name.pth", weights_only=True)
    assert set(content) == {"model", "part", "iteration", "note"}

    model, other = _model(), _Stateful(None)
    checkpointer = DetectionCheckpointer(model, str(tmp_path), part=other)
    assert checkpointer.has_checkpoint()
    assert checkpointer.get_checkpoint_file() == str(tmp_path / "name.pth")
    rest = checkpointer.resume_or_load("", resume=True)
    assert {key: rest[key] for key in ("iteration", "note")} == {"iteration": 7, "note": "x"}
    assert _values(model) == {2.0}
    assert other.state == 3


def test_load_without_resume_takes_the_model_alone(tmp_path: Path) -> None:
    DetectionCheckpointer(_model(2.0), str(tmp_path), part=_Stateful(3)).save("name")
    model, part = _model(), _Stateful(None)
    checkpointer = DetectionCheckpointer(model, str(tmp_path / "elsewhere"), part=part)
    assert not checkpointer.has_checkpoint()
    checkpointer.resume_or_load(str(tmp_path / "name.pth"), resume=True)
    assert _values(model) == {2.0}
    assert part.state is None


def test_nothing_to_load() -> None:
    model = _model()
    assert DetectionCheckpointer(model).load("") == {}
    assert _values(model) == {0.0}


def test_nothing_saved_without_permission(tmp_path: Path) -> None:
    DetectionCheckpointer(_model(), str(tmp_path), save_to_disk=False).save("name")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "wrap",
    [
        lambda weights: {"model": weights},
        lambda weights: weights,  # a bare state dict
        lambda weights: {"model": {f"module.{key}": value for key, value in weights.items()}},
        pytest.param(
            lambda weights: {"model": {key: value.numpy() for key, value in weights.items()}},
            marks=lite_only("arrays in a .pth are refused since torch 2.6"),
        ),
    ],
    ids=["model", "bare", "module.", "arrays"],
)
def test_forms_of_pth(tmp_path: Path, wrap: Callable[[Any], Any]) -> None:
    torch.save(wrap(_weights()), tmp_path / "file.pth")
    model = _model()
    DetectionCheckpointer(model).load(str(tmp_path / "file.pth"))
    assert _values(model) == {1.0}


def test_mismatches_are_logged_and_skipped(tmp_path: Path, d2_log: pytest.LogCaptureFixture) -> None:
    weights = _weights()
    weights["head.weight"] = torch.ones(5, 2)
    weights["stranger.weight"] = weights.pop("backbone.conv.weight")
    torch.save({"model": weights}, tmp_path / "file.pth")
    model = _model()
    DetectionCheckpointer(model).load(str(tmp_path / "file.pth"))
    assert model.head.weight.unique().tolist() == [0.0]
    assert model.head.bias.unique().tolist() == [1.0]
    assert "(5, 2) in the checkpoint" in d2_log.text
    assert "backbone.conv" in d2_log.text  # missing
    assert "stranger" in d2_log.text  # unexpected


def test_image_statistics_may_be_missing(tmp_path: Path, d2_log: pytest.LogCaptureFixture) -> None:
    torch.save({"model": _weights()}, tmp_path / "file.pth")
    model = _model()
    model.register_buffer("pixel_mean", torch.zeros(3))
    DetectionCheckpointer(model).load(str(tmp_path / "file.pth"))
    assert "pixel_mean" not in d2_log.text


def test_matching_heuristics_in_the_path(tmp_path: Path) -> None:
    torch.save({"conv.weight": torch.ones(2, 1, 1, 1), "conv.bias": torch.ones(2)}, tmp_path / "file.pth")
    model = _model()
    DetectionCheckpointer(model).load(f"{tmp_path}/file.pth?matching_heuristics=True")
    assert model.backbone.conv.weight.unique().tolist() == [1.0]
    model = _model()
    DetectionCheckpointer(model).load(f"{tmp_path}/file.pth")
    assert model.backbone.conv.weight.unique().tolist() == [0.0]
    with pytest.raises(ValueError, match="unknown"):
        DetectionCheckpointer(model).load(f"{tmp_path}/file.pth?unknown=1")


def _zoo_file(path: Path, data: Any, protocol: int = 2) -> str:
    path.write_bytes(pickle.dumps(data, protocol=protocol))
    return str(path)


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_model_zoo_pickle(tmp_path: Path, protocol: int) -> None:
    weights = {"conv.weight": np.ones((2, 1, 1, 1), np.float32), "conv.bias": np.ones(2, np.float32)}
    data = {"model": weights, "__author__": "someone", "matching_heuristics": True}
    model = _model()
    DetectionCheckpointer(model).load(_zoo_file(tmp_path / "R.pkl", data, protocol))
    assert model.backbone.conv.weight.unique().tolist() == [1.0]
    assert model.backbone.conv.bias.unique().tolist() == [1.0]


def test_pickled_tensors(tmp_path: Path) -> None:
    model = _model()
    data = {"model": dict(_weights()), "__author__": "someone"}
    DetectionCheckpointer(model).load(_zoo_file(tmp_path / "t.pkl", data))
    assert _values(model) == {1.0}


def test_caffe2_names() -> None:
    names = {
        "conv1_w": "stem.conv1.weight",
        "res_conv1_bn_s": "stem.conv1.norm.weight",
        "res2_0_branch2a_w": "res2.0.conv1.weight",
        "res2_0_branch2c_bn_s": "res2.0.conv3.norm.weight",
        "res2_0_branch1_bn_bias": "res2.0.shortcut.norm.bias",
        "res2_0_branch1_bn_rm": "res2.0.shortcut.norm.running_mean",
        "res2_0_branch1_bn_riv": "res2.0.shortcut.norm.running_var",
        "res2_0_branch2b_gn_s": "res2.0.conv2.norm.weight",
        "pred_b": "linear.bias",
    }
    for index, (caffe2, ours) in enumerate(names.items()):
        model = {f"backbone.{ours}": torch.zeros(index + 1)}
        found = align_and_update_state_dicts(model, {caffe2: torch.zeros(index + 1)})
        assert set(found) == set(model), caffe2


def test_caffe2_file(tmp_path: Path) -> None:
    blobs = {
        "conv_w": np.ones((2, 1, 1, 1), np.float32),
        "conv_w_momentum": np.ones(1, np.float32),
        "unrelated_w": np.ones(3, np.float32),
    }
    model = _model()
    DetectionCheckpointer(model).load(_zoo_file(tmp_path / "c2.pkl", {"blobs": blobs}))
    assert model.backbone.conv.weight.unique().tolist() == [1.0]


def test_pycls_file(tmp_path: Path) -> None:
    state = {"conv.bias": torch.ones(2), "bn.num_batches_tracked": torch.tensor(3)}
    torch.save({"model_state": state}, tmp_path / "x.pyth")
    model = _model()
    DetectionCheckpointer(model).load(str(tmp_path / "x.pyth"))
    assert model.backbone.conv.bias.unique().tolist() == [1.0]


def _sizes(**names: int) -> dict[str, torch.Tensor]:
    return {name.replace("__", "."): torch.zeros(size) for name, size in names.items()}


def test_alignment_takes_the_longest_suffix_on_dots() -> None:
    model = _sizes(m__res2__conv1__weight=1, m__conv1__weight=2, m__whatever_conv1__weight=3)
    found = align_and_update_state_dicts(model, _sizes(res2__conv1__weight=1, conv1__weight=2), c2_conversion=False)
    assert {name: len(value) for name, value in found.items()} == {"m.res2.conv1.weight": 1, "m.conv1.weight": 2}


def test_alignment_skips_other_shapes_and_keeps_strangers() -> None:
    model = _sizes(m__a=1, m__b=2)
    found = align_and_update_state_dicts(model, _sizes(a=1, b=7, c=3), c2_conversion=False)
    assert {name: len(value) for name, value in found.items()} == {"m.a": 1, "b": 7, "c": 3}


def test_alignment_must_be_unique() -> None:
    with pytest.raises(ValueError, match="multiple"):
        align_and_update_state_dicts(_sizes(x__a=1, y__a=1), _sizes(a=1), c2_conversion=False)


def test_alignment_with_no_match_at_all(d2_log: pytest.LogCaptureFixture) -> None:
    assert set(align_and_update_state_dicts(_sizes(a=1), _sizes(b=1), c2_conversion=False)) == {"b"}
    assert "no weights" in d2_log.text.lower()


def test_periodic_checkpointer_keeps_the_newest(tmp_path: Path) -> None:
    periodic = PeriodicCheckpointer(DetectionCheckpointer(_model(), str(tmp_path)), 2, max_iter=9, max_to_keep=2)
    for iteration in range(9):
        periodic.step(iteration)
    names = {"model_0000005.pth", "model_0000007.pth", "model_final.pth", "last_checkpoint"}
    assert {path.name for path in tmp_path.iterdir()} == names
    assert (tmp_path / "last_checkpoint").read_text() == "model_final.pth"
    assert torch.load(tmp_path / "model_final.pth", weights_only=True)["iteration"] == 8


# Safety and robustness


def test_a_missing_file_is_an_error_and_nothing_more(tmp_path: Path) -> None:
    with pytest.raises((OSError, AssertionError), match=r"absent\.pth"):
        DetectionCheckpointer(_model()).load(str(tmp_path / "absent.pth"))


@lite_only("one failed load makes every later one an AssertionError")
def test_a_failed_load_does_not_poison_the_next(tmp_path: Path) -> None:
    (tmp_path / "broken.pth").write_bytes(b"no checkpoint")
    torch.save(_weights(), tmp_path / "good.pth")
    model = _model()
    checkpointer = DetectionCheckpointer(model)
    with pytest.raises((pickle.UnpicklingError, RuntimeError)):
        checkpointer.load(str(tmp_path / "broken.pth?matching_heuristics=True"))
    checkpointer.load(str(tmp_path / "good.pth"))
    assert _values(model) == {1.0}


@lite_only("UnpicklingError since torch 2.6")
def test_checkpoints_of_original_detr_load(tmp_path: Path) -> None:
    args = argparse.Namespace(lr=1e-4, masks=False, dataset_file="coco")
    data = {"model": _weights(), "optimizer": {}, "epoch": np.int64(3), "best": np.float64(0.5), "args": args}
    torch.save(data, tmp_path / "r50.pth")
    model = _model()
    rest = DetectionCheckpointer(model).load(str(tmp_path / "r50.pth"))
    assert _values(model) == {1.0}
    assert rest["args"] == args
    assert rest["epoch"] == 3


class _Evil:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.marker),)


@lite_only(".pkl files run code; for the others the message does not name the file")
@pytest.mark.parametrize("extension", ["pkl", "pth", "pyth"])
def test_checkpoints_cannot_run_code(tmp_path: Path, extension: str) -> None:
    path, marker = tmp_path / f"evil.{extension}", tmp_path / "marker"
    data = {"model": _weights(), "__author__": "x", "model_state": {}, "extra": _Evil(marker)}
    if extension == "pkl":
        _zoo_file(path, data)
    else:
        torch.save(data, path)
    with pytest.raises(pickle.UnpicklingError, match="evil"):
        DetectionCheckpointer(_model()).load(str(path))
    assert not marker.exists()


@lite_only(".pkl files run code")
def test_tensors_in_pickles_cannot_run_code_either(tmp_path: Path) -> None:
    # torch.storage._load_from_bytes is allowed in pickle files, and reads a file in the file.
    import io

    marker = tmp_path / "marker"
    inner = io.BytesIO()
    torch.save(_Evil(marker), inner)

    class Storage:
        def __reduce__(self) -> tuple[Any, ...]:
            return torch.storage._load_from_bytes, (inner.getvalue(),)

    filename = _zoo_file(tmp_path / "x.pkl", {"model": {"a": Storage()}, "__author__": ""})
    with pytest.raises(pickle.UnpicklingError):
        DetectionCheckpointer(_model()).load(filename)
    assert not marker.exists()


class _Custom:
    pass


@lite_only("its message does not name the file")
def test_refused_types_can_be_allowed(tmp_path: Path) -> None:
    torch.save({"model": _weights(), "custom": _Custom()}, tmp_path / "c.pth")
    model = _model()
    with pytest.raises(pickle.UnpicklingError, match=r"c\.pth.*add_safe_globals"):
        DetectionCheckpointer(model).load(str(tmp_path / "c.pth"))
    with torch.serialization.safe_globals([_Custom]):
        DetectionCheckpointer(model).load(str(tmp_path / "c.pth"))
    assert _values(model) == {1.0}


@lite_only("reads it as a torch file")
def test_safetensors(tmp_path: Path) -> None:
    save_file = pytest.importorskip("safetensors.torch").save_file
    save_file(_weights(), tmp_path / "w.safetensors")
    model = _model()
    DetectionCheckpointer(model).load(str(tmp_path / "w.safetensors"))
    assert _values(model) == {1.0}
