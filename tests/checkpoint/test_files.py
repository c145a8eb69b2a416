"""Where checkpoints are found, and what of them is read: nothing that runs."""

from __future__ import annotations

import argparse
import io
import json
import os
import pickle
import sys
import tarfile
import types
from collections import OrderedDict

import huggingface_hub
import numpy as np
import pytest
import torch
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
from safetensors.torch import save_file
from torch import nn

from detrex.checkpoint import Checkpointer, CheckpointError, class_names, read_checkpoint, resolve_checkpoint
from detrex.checkpoint.reading import files_of
from detrex.checkpoint.unpickling import Inert


def model(value: float) -> nn.Module:
    net = nn.Sequential(OrderedDict(a=nn.Linear(2, 3), b=nn.Linear(3, 2)))
    for parameter in net.parameters():
        nn.init.constant_(parameter, value)
    return net


def write_shards(folder, suffix: str) -> None:
    """A model in two files and their index, as transformers writes large ones."""
    prefix = "model" if suffix == ".safetensors" else "pytorch_model"
    state, places = model(2.0).state_dict(), {}
    for i, part in enumerate("ab"):
        name = f"{prefix}-0000{i + 1}-of-00002{suffix}"
        shard = {key: value for key, value in state.items() if key.startswith(part)}
        save_file(shard, folder / name) if suffix == ".safetensors" else torch.save(shard, folder / name)
        places |= dict.fromkeys(shard, name)
    (folder / f"{prefix}{suffix}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))


def write_folder(folder, layout: str) -> None:
    (folder / "config.json").write_text("{}")
    if layout.startswith("shards"):
        write_shards(folder, layout.removeprefix("shards"))
    elif layout == ".safetensors":
        save_file(model(2.0).state_dict(), folder / "model.safetensors")
    else:
        torch.save(model(2.0).state_dict(), folder / "pytorch_model.bin")


def assert_loads(path: str) -> None:
    net = model(0.0)
    checkpointer = Checkpointer(net)
    checkpointer.load(path)
    assert len(checkpointer.report.loaded) == 4
    assert all((value == 2).all() for value in net.state_dict().values())


LAYOUTS = [".safetensors", ".bin", "shards.safetensors", "shards.bin"]


# ------------------------------------------------------------------------------------------- Hugging Face's layout
@pytest.mark.parametrize("layout", LAYOUTS)
def test_folder(layout, tmp_path):
    write_folder(tmp_path, layout)
    assert_loads(str(tmp_path))
    assert len(files_of(resolve_checkpoint(tmp_path))) == (3 if layout.startswith("shards") else 1)


def test_a_folder_prefers_safetensors_and_says_what_it_lacks(tmp_path):
    with pytest.raises(CheckpointError, match=r"is a folder without model\.safetensors, .*pytorch_model\.bin"):
        resolve_checkpoint(tmp_path)
    write_folder(tmp_path, ".bin")
    write_folder(tmp_path, ".safetensors")
    assert resolve_checkpoint(tmp_path).endswith("model.safetensors")


def test_an_index_stays_in_its_folder(tmp_path):
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "../secret.safetensors"}}))
    with pytest.raises(CheckpointError, match="outside its folder"):
        read_checkpoint(str(index))
    index.write_text("[]")
    with pytest.raises(CheckpointError, match=r"index\.json is no index of weights"):
        read_checkpoint(str(index))


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub of one repository, whose files are in a folder; requests are recorded."""
    folder = tmp_path / "hub"
    folder.mkdir()

    def download(repository, filename, *, revision=None):
        download.requests.append((repository, filename, revision))
        if repository != "someone/detector":
            raise OSError("401 Client Error. Repository Not Found")
        if not (folder / filename).exists():
            raise EntryNotFoundError(f"404: {filename}")
        return str(folder / filename)

    download.requests = []
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    return folder, download


@pytest.mark.parametrize("layout", LAYOUTS)
def test_hub(layout, hub):
    folder, download = hub
    write_folder(folder, layout)
    assert_loads("hf://someone/detector")
    weights = [name for _, name, _ in download.requests if (folder / name).exists()]
    assert len(weights) == (3 if layout.startswith("shards") else 1)


def test_hub_revision_and_file(hub):
    folder, download = hub
    (folder / "sub").mkdir()
    torch.save(model(2.0).state_dict(), folder / "sub" / "best.pth")
    assert_loads("hf://someone/detector@v1/sub/best.pth")
    assert download.requests == [("someone/detector", "sub/best.pth", "v1")]


def test_hub_errors_say_what_to_do(hub, monkeypatch):
    with pytest.raises(CheckpointError, match="not of the form hf://organisation/name"):
        resolve_checkpoint("hf://detector")
    with pytest.raises(CheckpointError, match=r"hf://someone/detector: someone/detector has no model\.safetensors or"):
        resolve_checkpoint("hf://someone/detector")
    with pytest.raises(CheckpointError, match=r"Repository Not Found.*Is some/one the name.*hf auth login"):
        resolve_checkpoint("hf://some/one")

    def offline(repository, filename, *, revision=None):
        raise LocalEntryNotFoundError("no connection")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", offline)
    with pytest.raises(CheckpointError, match=r"no connection.*hf download a/b --local-dir.*init_checkpoint=FOLDER"):
        resolve_checkpoint("hf://a/b")


def test_file_url(tmp_path):
    torch.save(model(2.0).state_dict(), tmp_path / "my model.pth")
    assert_loads((tmp_path / "my model.pth").as_uri())
    with pytest.raises(CheckpointError, match="not found"):
        resolve_checkpoint((tmp_path / "absent.pth").as_uri())


# --------------------------------------------------------------------------------------- objects beside the weights
@pytest.fixture
def mmengine(monkeypatch):
    """Types under mmengine's names that pickle like its own; they are gone when the file is read."""

    class HistoryBuffer:
        def __init__(self):
            self._log_history = np.arange(3.0)
            self._count_history = np.ones(3, dtype=np.int64)
            self._statistics_methods = {"mean": HistoryBuffer.mean}

        def mean(self):
            raise AssertionError("ran")

        def __setstate__(self, state):
            raise AssertionError("ran")

    class ConfigDict(dict):
        def __reduce_ex__(self, protocol):
            return type(self), (dict(self),)

    HistoryBuffer.mean.__qualname__ = "HistoryBuffer.mean"
    with monkeypatch.context() as patch:
        for cls, module in ((HistoryBuffer, "mmengine.logging.history_buffer"), (ConfigDict, "mmengine.config.config")):
            cls.__module__, cls.__qualname__ = module, cls.__name__
            cls.__dict__.get("mean", cls).__module__ = module
            for i in range(1, module.count(".") + 2):
                name = ".".join(module.split(".")[:i])
                if name not in sys.modules:
                    patch.setitem(sys.modules, name, types.ModuleType(name))
            setattr(sys.modules[module], cls.__name__, cls)
        yield HistoryBuffer, ConfigDict, patch


@pytest.mark.parametrize("zipped", [True, False])
def test_mmengine_objects(mmengine, zipped, tmp_path):
    """What MMDetection 3 saves while training; its released files are of the older format, without a zip archive."""
    history, config, patch = mmengine
    data = {
        "meta": {"epoch": 50, "cfg": config(model=config(type="DETR")), "dataset_meta": {"CLASSES": ("cat", "dog")}},
        "state_dict": model(2.0).state_dict(),
        "message_hub": {"log_scalars": OrderedDict(loss=history()), "runtime_info": {"iter": np.int64(7)}},
    }
    torch.save(data, tmp_path / "epoch_50.pth", _use_new_zipfile_serialization=zipped)
    patch.undo()
    assert "mmengine" not in sys.modules
    read = read_checkpoint(str(tmp_path / "epoch_50.pth"))
    assert class_names(read) == ("cat", "dog")
    assert read["meta"]["cfg"] == {"model": {"type": "DETR"}}
    buffer = read["message_hub"]["log_scalars"]["loss"]
    assert type(buffer) is Inert
    assert buffer._log_history.tolist() == [0, 1, 2]
    assert read["message_hub"]["runtime_info"]["iter"] == 7
    assert_loads(str(tmp_path / "epoch_50.pth"))


@pytest.mark.parametrize(
    ("checkpoint", "expected"),
    [
        ({"metadata": {"class_names": ["a", "b"]}}, ("a", "b")),
        ({"meta": {"CLASSES": ("a", "b"), "PALETTE": None}}, ("a", "b")),  # MMDetection 2
        ({"meta": {"dataset_meta": {"classes": ["a"]}}}, ("a",)),
        ({"meta": {"CLASSES": None}}, ()),
        ({"meta": "text", "metadata": 3}, ()),
        ({}, ()),
    ],
)
def test_class_names(checkpoint, expected):
    assert class_names(checkpoint) == expected


# ----------------------------------------------------------------------------------------------- files that attack
RAN = []


def trace(what: str) -> None:
    RAN.append(what)


class Evil:
    """Calls a function when unpickled."""

    def __init__(self, function, *args):
        self.call = function, args

    def __call__(self):
        """What it makes may be called in turn: pickle asks for a callable."""

    def __reduce__(self):
        return self.call


class EvilState:
    """Calls a function through the state of an object that is allowed."""

    def __reduce__(self):
        return argparse.Namespace, (), {"lr": Evil(trace, "state")}


def evil(touched) -> dict[str, object]:
    """Values whose unpickling by Python leaves a trace: an entry in RAN or a file."""
    return {
        "a function": Evil(trace, "called"),
        "os.system": Evil(os.system, f"touch {touched}"),
        "eval": Evil(eval, f"open({str(touched)!r}, 'w')"),
        "exec": Evil(exec, f"open({str(touched)!r}, 'w')"),
        "a nested value": {"args": [{"x": Evil(trace, "nested")}]},
        "a state": EvilState(),
        "getattr and a call": Evil(Evil(getattr, tarfile.TarFile, "open"), str(touched), "w"),
        "getattr of an allowed class": Evil(Evil(getattr, argparse.Namespace, "__init__"), argparse.Namespace()),
        "torch.load": Evil(torch.load, "/nowhere"),
        "a class": argparse.ArgumentParser,
    }


@pytest.fixture
def attack(request, tmp_path):
    touched = tmp_path / "touched"
    yield evil(touched)[request.param]
    assert not RAN
    assert not touched.exists()


def assert_refused(path, match: str = "could run code") -> None:
    with pytest.raises(CheckpointError, match=match) as error:
        read_checkpoint(str(path))
    assert str(path) in str(error.value)


attacks = pytest.mark.parametrize("attack", sorted(evil("")), indirect=True)


@attacks
@pytest.mark.parametrize("where", ["model", "beside"])
@pytest.mark.parametrize("suffix", [".pth", ".pt", ".bin", ".pkl"])
def test_no_file_runs_code(attack, where, suffix, tmp_path):
    path = tmp_path / f"file{suffix}"
    data = {"model": {"w": attack}} if where == "model" else {"model": {}, "args": attack}
    if suffix == ".pkl":
        path.write_bytes(pickle.dumps(data, protocol=2))
    else:
        torch.save(data, path)
    assert_refused(path)


@attacks
def test_no_file_of_the_older_formats_runs_code(attack, tmp_path):
    path = tmp_path / "legacy.pth"
    torch.save({"model": {}, "args": attack}, path, _use_new_zipfile_serialization=False)
    assert_refused(path)
    path = tmp_path / "bare.pth"
    path.write_bytes(pickle.dumps({"model": {}, "args": attack}, protocol=2))
    assert_refused(path, "could run code|cannot be read")
    path = tmp_path / "tar.pth"
    with tarfile.open(path, "w") as archive:
        for name in ("storages", "tensors", "pickle"):
            content = pickle.dumps(attack, protocol=2)
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    assert_refused(path, "could run code|cannot be read")


def test_no_torchscript_archive(tmp_path):
    path = tmp_path / "script.pth"
    torch.jit.save(torch.jit.trace(model(2.0), torch.zeros(1, 2)), str(path))
    assert_refused(path, "cannot be read.*TorchScript")


@attacks
def test_no_shard_runs_code(attack, tmp_path):
    write_shards(tmp_path, ".bin")
    torch.save({"a.weight": attack}, tmp_path / "pytorch_model-00001-of-00002.bin")
    with pytest.raises(CheckpointError, match="could run code"):
        Checkpointer(model(0.0)).load(str(tmp_path))


@pytest.mark.parametrize("element", ["text", Evil(trace, "element"), None])
def test_arrays_of_objects_are_refused(element, tmp_path):
    """They are read by address: numpy would follow any bytes as pointers."""
    array = np.array([element], dtype=object)
    (tmp_path / "a.pkl").write_bytes(pickle.dumps({"model": {"w": array}}, protocol=2))
    assert_refused(tmp_path / "a.pkl", "array of 'O8'; only numbers of a fixed size|could run code")
    torch.save({"model": {"w": array}}, tmp_path / "a.pth")
    assert_refused(tmp_path / "a.pth", "array of 'O8'; only numbers of a fixed size|could run code")
    assert not RAN


def test_safetensors_hold_no_objects(tmp_path):
    path = tmp_path / "a.safetensors"
    path.write_bytes(pickle.dumps(Evil(trace, "called")))
    assert_refused(path, "cannot be read")
    assert not RAN


def test_the_attacks_work_on_pickle_itself():
    """So that the tests above do not pass for want of an attack."""
    try:
        pickle.loads(pickle.dumps({"args": EvilState()}))
        pickle.loads(pickle.dumps(evil("")["a function"]))
        assert RAN == ["state", "called"]
    finally:
        RAN.clear()


@pytest.mark.parametrize("length", [0, 1, 10, 100, 400, 600])
@pytest.mark.parametrize("suffix", [".pth", ".pkl", ".bin", ".safetensors"])
def test_any_bytes_are_an_error_of_ours(length, suffix, tmp_path):
    path = tmp_path / f"file{suffix}"
    generator = np.random.default_rng(length)
    whole = io.BytesIO()
    torch.save(model(2.0).state_dict(), whole, _use_new_zipfile_serialization=False)
    for start in (b"", b"\x80\x02", whole.getvalue()[:length]):
        path.write_bytes(start + generator.bytes(length))
        with pytest.raises(CheckpointError, match=r"file\."):
            read_checkpoint(str(path))
