"""Reading checkpoints safely and matching them strictly."""

from __future__ import annotations

import argparse
import pickle
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.utils.file_io import PathManager
from torch import nn

from detrex.checkpoint import (
    Checkpointer,
    CheckpointError,
    match_state,
    read_checkpoint,
    resolve_checkpoint,
    run_id_of,
)


class Net(nn.Module):
    def __init__(self, num_classes: int = 4):
        super().__init__()
        self.backbone = nn.Sequential(OrderedDict(stem=nn.Conv2d(3, 4, 3), res2=nn.BatchNorm2d(4, affine=True)))
        self.class_head = nn.ModuleList([nn.Linear(4, num_classes)])
        self.bbox_head = nn.Linear(4, 4)
        self.register_buffer("pixel_mean", torch.ones(3))


@pytest.fixture
def net() -> Net:
    torch.manual_seed(1)
    return Net()


def other(num_classes: int = 4) -> Net:
    torch.manual_seed(2)
    return Net(num_classes)


def assert_same(a: nn.Module, b: nn.Module, *, but: str = " ") -> None:
    for (name, x), y in zip(a.state_dict().items(), b.state_dict().values(), strict=True):
        assert torch.equal(x, y) != name.startswith(but), name


def save(path: Path, value) -> str:
    torch.save(value, path)
    return str(path)


# --------------------------------------------------------------------------------------------------------- formats
@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: {"model": s}, lambda s: {"state_dict": s, "epoch": 3}])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_bare_and_wrapped_state_dicts(net, tmp_path, wrap, prefix):
    path = save(tmp_path / "a.pth", wrap({prefix + k: v for k, v in net.state_dict().items()}))
    model = other()
    Checkpointer(model).load(path)
    assert_same(model, net)


def test_safetensors(net, tmp_path):
    from safetensors.torch import save_file

    save_file(net.state_dict(), tmp_path / "a.safetensors")
    model = other()
    Checkpointer(model).load(str(tmp_path / "a.safetensors"))
    assert_same(model, net)


@pytest.mark.parametrize("protocol", [2, 4])
def test_pickles_of_arrays(net, tmp_path, protocol):
    arrays = {k: v.numpy() for k, v in net.state_dict().items()}
    with open(tmp_path / "a.pkl", "wb") as f:
        pickle.dump({"model": arrays, "__author__": "me", "matching_heuristics": True}, f, protocol)
    model = other()
    Checkpointer(model).load(str(tmp_path / "a.pkl"))
    assert_same(model, net)


def test_files_of_old_numpy(tmp_path):
    """Numpy 1 wrote its private module's former name."""
    old = pickle.dumps({"model": {"w": np.arange(3.0)}}, 2).replace(b"numpy._core", b"numpy.core")
    (tmp_path / "a.pkl").write_bytes(old)
    assert read_checkpoint(str(tmp_path / "a.pkl"))["model"]["w"].tolist() == [0, 1, 2]


def test_official_files_hold_a_namespace(net, tmp_path):
    path = save(tmp_path / "a.pth", {"model": net.state_dict(), "args": argparse.Namespace(lr=2e-4), "epoch": 49})
    assert read_checkpoint(path)["args"].lr == 2e-4


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.pth", b"", "cannot be read|damaged"),
        ("a.pth", b"not a checkpoint", "cannot be read|damaged"),
        ("a.pkl", b"\x80\x04", "cannot be read|damaged"),
        ("a.safetensors", b"\xff" * 20, "cannot be read"),
        ("a.txt", b"", "of unknown type; known are .pth"),
        ("a.pkl", pickle.dumps({"blobs": {}}), "Caffe2"),
        ("a.pkl", pickle.dumps([1, 2]), "holds a list, not a dict"),
        ("a.pkl", pickle.dumps({"model": {"w": "text"}}), "w is a str, not a tensor"),
    ],
)
def test_damaged_and_foreign_files_are_named(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=message) as error:
        read_checkpoint(str(tmp_path / name))
    assert str(tmp_path / name) in str(error.value)


def test_truncated_file(net, tmp_path):
    path = Path(save(tmp_path / "a.pth", net.state_dict()))
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_checkpoint(str(path))


def test_absent_files(tmp_path, net):
    save(tmp_path / "there.pth", net.state_dict())
    with pytest.raises(CheckpointError, match=r"not found: .* has there\.pth"):
        resolve_checkpoint(tmp_path / "absent.pth")
    with pytest.raises(CheckpointError, match="does not exist"):
        resolve_checkpoint(tmp_path / "nowhere" / "absent.pth")


def test_offline(monkeypatch):
    def fail(url):
        raise OSError("no route to host")

    monkeypatch.setattr(PathManager, "get_local_path", fail)
    with pytest.raises(
        CheckpointError, match=r"cannot download https://x\.org/a\.pth: no route.*train\.init_checkpoint="
    ):
        resolve_checkpoint("https://x.org/a.pth?matching_heuristics=True")


def test_urls_are_fetched_without_their_query(tmp_path, monkeypatch):
    url = "detectron2://ImageNetPretrained/torchvision/R-50.pkl"
    cached = {url: str(tmp_path / "R-50.pkl")}
    (tmp_path / "R-50.pkl").write_bytes(b"weights")
    monkeypatch.setattr(PathManager, "get_local_path", cached.__getitem__)
    assert resolve_checkpoint(url) == cached[url]
    assert resolve_checkpoint(f"{url}?matching_heuristics=True") == cached[url]
    with pytest.raises(CheckpointError, match="unknown query"):
        resolve_checkpoint(f"{url}?x=1")


# -------------------------------------------------------------------------------------------------------- matching
def test_missing_unexpected_and_mismatched_are_errors_that_say_what(net, tmp_path):
    state = net.state_dict()
    state["extra.weight"] = state.pop("bbox_head.weight")
    path = save(tmp_path / "a.pth", state)
    model = other(num_classes=7)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(CheckpointError) as error:
        Checkpointer(model).load(path)
    message = str(error.value)
    assert path in message
    assert "1 missing in the file: bbox_head.weight" in message
    assert "1 not in the model: extra.weight" in message
    assert "class_head.0.weight [4, 4] in the file, [7, 4] in the model" in message
    assert "train.checkpoint.reinit=[bbox_head,class_head]" in message
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())  # nothing half loaded


def test_reinit_starts_the_named_parameters_afresh(net, tmp_path):
    path = save(tmp_path / "a.pth", net.state_dict())
    model, untouched = other(num_classes=7), other(num_classes=7)
    checkpointer = Checkpointer(model, reinit=["class_head"])
    checkpointer.load(path)
    assert checkpointer.report.reinit == ("class_head.0.weight", "class_head.0.bias")
    assert torch.equal(model.class_head[0].weight, untouched.class_head[0].weight)
    assert torch.equal(model.bbox_head.weight, net.bbox_head.weight)


def test_not_strict_loads_what_fits_but_something_must(net, tmp_path):
    state = {k: v for k, v in net.state_dict().items() if "bbox" not in k}
    model = other()
    Checkpointer(model, strict=False).load(save(tmp_path / "a.pth", state))
    assert torch.equal(model.class_head[0].weight, net.class_head[0].weight)
    with pytest.raises(CheckpointError, match="does not fit"):
        Checkpointer(model, strict=False).load(save(tmp_path / "b.pth", {"w": torch.ones(2)}))


def test_an_imagenet_backbone_is_recognised(net, tmp_path):
    state = {k.removeprefix("backbone."): v for k, v in net.state_dict().items() if k.startswith("backbone.")}
    state |= {"stem.fc.weight": torch.ones(1000, 4), "stem.fc.bias": torch.ones(1000)}
    model, untouched = other(), other()
    checkpointer = Checkpointer(model)
    checkpointer.load(save(tmp_path / "r50.pth", state))
    report = checkpointer.report
    assert report.prefix == "backbone"
    assert report.complete
    assert report.ignored == ("stem.fc.weight", "stem.fc.bias")
    assert_same(model.backbone, net.backbone)
    assert torch.equal(model.bbox_head.weight, untouched.bbox_head.weight)


def test_an_incomplete_backbone_is_an_error(net):
    state = {k.removeprefix("backbone."): v for k, v in net.state_dict().items() if k.startswith("backbone.")}
    del state["res2.running_var"]
    _, report = match_state(net, state)
    assert report.missing == ("backbone.res2.running_var",)


def test_old_files_may_lack_what_the_config_sets(net):
    state = {k: v for k, v in net.state_dict().items() if k != "pixel_mean"}
    assert match_state(net, state)[1].complete


def test_tied_parameters_count_as_loaded_under_either_name():
    model = nn.ModuleDict({"a": nn.Linear(2, 2)})
    model["b"] = model["a"]
    _, report = match_state(model, {k: v for k, v in model.state_dict().items() if k.startswith("a")})
    assert report.complete


# ------------------------------------------------------------------------------------------------- the checkpointer
def test_a_failed_load_leaves_the_checkpointer_usable(net, tmp_path):
    checkpointer = Checkpointer(other(num_classes=7))
    good = save(tmp_path / "good.pth", other(num_classes=7).state_dict())
    bad = save(tmp_path / "bad.pth", net.state_dict())
    for _ in range(2):
        with pytest.raises(CheckpointError):
            checkpointer.load(bad)
        with pytest.raises(CheckpointError):
            checkpointer.load("absent.pth")
    checkpointer.load(good)


def test_save_is_atomic_and_tagged(net, tmp_path, monkeypatch):
    checkpointer = Checkpointer(net, str(tmp_path), metadata={"class_names": ["a"]})
    checkpointer.save("one", iteration=3)
    assert read_checkpoint(str(tmp_path / "one.pth"))["metadata"] == {"class_names": ["a"]}
    before = (tmp_path / "one.pth").read_bytes()

    def fail(data, f):
        f.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(torch, "save", fail)
    for name in ("one", "two"):
        with pytest.raises(OSError, match="disk full"):
            checkpointer.save(name)
    assert (tmp_path / "one.pth").read_bytes() == before
    assert not (tmp_path / "two.pth").exists()
    assert checkpointer.get_checkpoint_file() == str(tmp_path / "one.pth")


def test_resume_is_strict_even_where_loading_is_not(net, tmp_path):
    Checkpointer(net, str(tmp_path)).save("last")
    model = other(num_classes=7)
    with pytest.raises(CheckpointError, match="does not fit"):
        Checkpointer(model, str(tmp_path), strict=False, reinit=["class_head"]).resume_or_load("", resume=True)


def test_an_empty_path_loads_nothing(net):
    assert Checkpointer(net).load("") == {}


class Table(nn.Module):
    """Adapts a table of another length, as detectron2_lite's Swin does with its position tables."""

    def __init__(self, length: int) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.zeros(length))

    def adapt_state_dict(self, state_dict: dict, prefix: str) -> None:
        state_dict[f"{prefix}table"] = state_dict[f"{prefix}table"][: len(self.table)]


@pytest.mark.parametrize("part", ["", "backbone."])
def test_modules_adapt_what_they_know_to_have_another_shape(part):
    model = nn.ModuleDict({"backbone": nn.ModuleDict({"stem": Table(3)})})
    assigned, report = match_state(model, {f"{part}stem.table": torch.arange(5.0)})
    assert report.complete
    assert assigned["backbone.stem.table"].tolist() == [0, 1, 2]


def test_a_run_does_not_resume_from_the_checkpoints_of_another(net, tmp_path, caplog):
    """A new run in a used folder, killed before its first checkpoint."""
    Checkpointer(net, str(tmp_path), run_id="old").save("model_final")
    assert run_id_of(tmp_path / "model_final.pth") == "old"
    assert Checkpointer(net, str(tmp_path), run_id="old").newest_valid() == str(tmp_path / "model_final.pth")
    with pytest.raises(CheckpointError, match=r"model_final\.pth is of another run: its run_id is 'old'"):
        Checkpointer(other(), str(tmp_path), run_id="new").resume_or_load("", resume=True)
    Checkpointer(net, str(tmp_path)).save("model_0000001")  # of a version that wrote no id
    assert run_id_of(tmp_path / "model_0000001.pth") == ""
    assert Checkpointer(net, str(tmp_path), run_id="new").newest_valid() == str(tmp_path / "model_0000001.pth")


@pytest.mark.parametrize("note", [b"\xff\xfe", b"model_0000007.pth\0", b"absent.pth", b"../model_0000001.pth", b""])
def test_a_damaged_note_of_the_last_checkpoint_does_not_end_the_run(note, net, tmp_path, caplog):
    checkpointer = Checkpointer(net, str(tmp_path))
    checkpointer.save("model_0000001")
    checkpointer.save("model_0000002")
    (tmp_path / "last_checkpoint").write_bytes(note)
    assert Checkpointer(net, str(tmp_path)).newest_valid() == str(tmp_path / "model_0000002.pth")
    assert "last_checkpoint" in caplog.text
    Checkpointer(other(), str(tmp_path)).resume_or_load("", resume=True)
