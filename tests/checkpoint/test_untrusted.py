"""Checkpoints that claim more than they are or crash what reads them; downloads that are not what they were."""

from __future__ import annotations

import hashlib
import json
import pickle
import zipfile

import numpy as np
import pytest
import torch
from detectron2.utils.file_io import PathManager

from detrex.checkpoint import CheckpointError, read_checkpoint, resolve_checkpoint
from detrex.checkpoint.locating import sha256_of


@pytest.fixture
def weights(tmp_path):
    path = tmp_path / "weights.pth"
    torch.save({"a": torch.ones(2, 3)}, path)
    return path


def test_an_archive_that_unpacks_to_more_than_it_is(weights, tmp_path):
    """A tensor's megabytes of zeros, deflated to some kilobytes; torch would inflate them."""
    torch.save({"a": torch.zeros(1 << 23)}, weights)
    bomb = tmp_path / "bomb.pth"
    with zipfile.ZipFile(weights) as source, zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as target:
        for entry in source.infolist():
            target.writestr(entry.filename, source.read(entry))
    assert bomb.stat().st_size < 100_000
    with pytest.raises(CheckpointError, match=r"bomb\.pth has \d+ bytes and unpacks to 335\d+: torch\.save writes no"):
        read_checkpoint(str(bomb))
    assert read_checkpoint(str(weights))["model"]["a"].numel() == 1 << 23


def test_nothing_is_extracted(weights, tmp_path):
    """Names in an archive that lead elsewhere (zip-slip)."""
    with zipfile.ZipFile(weights, "a") as archive:
        archive.writestr("../../outside.txt", "text")
    before = sorted(tmp_path.parent.rglob("*"))
    with pytest.raises(CheckpointError, match="in more than one folder"):
        read_checkpoint(str(weights))
    assert sorted(tmp_path.parent.rglob("*")) == before


@pytest.mark.parametrize(
    ("program", "message"),
    [
        (b"\x80\x02}r\xff\xff\xff\x7f.", "Caffe2"),  # object number 2^31 - 1: C's unpickler makes room for as many
        (b"\x80\x05\x96\x00\x00\x00\x00\x00\x01\x00\x00.", "cannot be read: EOFError"),  # 2^40 bytes
    ],
)
def test_a_pickle_cannot_ask_for_memory(program, message, tmp_path):
    (tmp_path / "weights.pkl").write_bytes(program)
    with pytest.raises(CheckpointError, match=message):
        read_checkpoint(str(tmp_path / "weights.pkl"))


def test_arrays_of_text_are_no_tensors(tmp_path):
    with open(tmp_path / "weights.pkl", "wb") as f:
        pickle.dump({"model": {"a": np.array(["text"])}}, f)
    with pytest.raises(CheckpointError, match=r"weights\.pkl holds an array of 'U4'; only numbers"):
        read_checkpoint(str(tmp_path / "weights.pkl"))


@pytest.mark.parametrize("name", ["", "..", "a/b.safetensors", "/a.safetensors", "\ud800", "\0", 3])
def test_an_index_names_files_beside_itself(name, tmp_path):
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": name}}))
    with pytest.raises(CheckpointError, match="names files outside its folder"):
        read_checkpoint(str(index))


@pytest.fixture
def remote(weights, tmp_path, monkeypatch):
    """URLs whose last part is a file of the cache."""
    cache = tmp_path / "cache"
    cache.mkdir()

    def fetch(url):
        path = cache / url.rpartition("/")[2]
        if not path.exists():
            path.write_bytes(weights.read_bytes())
        return str(path)

    monkeypatch.setattr(PathManager, "get_local_path", fetch)
    return cache


def test_a_download_is_hashed_and_compared_later(remote, weights):
    url = "https://example.org/model.pth"
    path = resolve_checkpoint(url)
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    assert sha256_of(weights) == digest
    assert (remote / "model.pth.sha256").read_text() == digest
    assert resolve_checkpoint(url) == path
    with open(path, "ab") as f:
        f.write(b"more")
    with pytest.raises(
        CheckpointError, match=r"model\.pth, downloaded from https.*by an earlier download it is .*remove"
    ):
        resolve_checkpoint(url)


def test_a_hash_in_the_name_counts(remote, weights):
    digest = sha256_of(weights)
    resolve_checkpoint(f"https://example.org/resnet50-{digest[:8]}.pth")
    with pytest.raises(CheckpointError, match=r"by its name it is 0123abcd"):
        resolve_checkpoint("https://example.org/resnet50-0123abcd.pth")


def test_a_note_that_cannot_be_written_costs_nothing(remote, caplog):
    (remote / "model.pth.sha256.tmp").mkdir()
    assert resolve_checkpoint("https://example.org/model.pth").endswith("model.pth")
    assert "cannot be written" in caplog.text


class State:
    """Pickles as an object of a numpy type that is given a state of any kind."""

    def __init__(self, kind, arguments, state):
        self.parts = kind, arguments, state

    def __reduce__(self):
        return self.parts


EMPTY = np.empty(0).__reduce__()
DTYPE = np.dtype("f4")
STATES = {
    "array, data too short": State(*EMPTY[:2], (1, (1 << 40,), DTYPE, False, b"1234")),
    "array, negative size": State(*EMPTY[:2], (1, (-4, -1), DTYPE, False, b"0" * 16)),
    "array, no type": State(*EMPTY[:2], (1, (1,), None, False, b"1234")),
    "array, of few parts": State(*EMPTY[:2], (1, (1,))),
    "array, objects": State(*EMPTY[:2], (1, (1,), np.dtype("O"), False, [1])),
    "type with fields": State(np.dtype, ("V4", False, True), (3, "|", None, ("a",), {"a": 3}, 4, 1, 16)),
    "type, empty state": State(np.dtype, ("f4", False, True), ()),
    "type of a huge size": State(np.dtype, ("U99999999999", False, True), (3, "<", None, None, None, 1 << 60, 1, 0)),
}


@pytest.mark.parametrize("suffix", [".pkl", ".pth"])
@pytest.mark.parametrize("name", STATES)
def test_states_that_crash_numpy_are_refused(name, suffix, tmp_path):
    path = tmp_path / f"weights{suffix}"
    data = {"model": {"a": STATES[name]}}
    if suffix == ".pkl":
        path.write_bytes(pickle.dumps(data, protocol=2))
    else:
        torch.save(data, path)
    with pytest.raises(CheckpointError, match="weights"):
        read_checkpoint(str(path))


@pytest.mark.parametrize("dtype", ["f4", ">f8", "i8", "?", "u1", "c8"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_arrays_are_read_as_they_were_written(dtype, order, tmp_path):
    array = np.asarray(np.arange(6).reshape(2, 3), dtype, order=order)
    data = {"model": {"b": array, "c": array[1, 2]}, "kept": [array]}
    (tmp_path / "weights.pkl").write_bytes(pickle.dumps(data, protocol=2))
    torch.save(data, tmp_path / "weights.pth")
    for suffix in (".pkl", ".pth"):
        read = read_checkpoint(str(tmp_path / f"weights{suffix}"))
        assert np.array_equal(read["model"]["b"].numpy(), array)
        assert read["model"]["c"] == array[1, 2]
        assert read["kept"][0].dtype == array.dtype.newbyteorder("=")
