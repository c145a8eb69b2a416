"""Checkpoint archives that claim more than they are, and downloads that are not what they were."""

from __future__ import annotations

import hashlib
import zipfile

import pytest
import torch
from detectron2.utils.file_io import PathManager

from detrex.checkpoint import CheckpointError, read_checkpoint, resolve_checkpoint
from detrex.checkpoint.download import sha256_of


@pytest.fixture
def weights(tmp_path):
    path = tmp_path / "weights.pth"
    torch.save({"a": torch.ones(2, 3)}, path)
    return path


def test_an_archive_that_unpacks_to_more_than_it_is(weights, tmp_path):
    """A tensor's megabytes of zeros, deflated to some kilobytes; torch would inflate them."""
    torch.save({"a": torch.zeros(1 << 20)}, weights)
    bomb = tmp_path / "bomb.pth"
    with zipfile.ZipFile(weights) as source, zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as target:
        for entry in source.infolist():
            target.writestr(entry.filename, source.read(entry))
    assert bomb.stat().st_size < 20_000
    with pytest.raises(CheckpointError, match=r"bomb\.pth has \d+ bytes and unpacks to 419\d+: torch\.save writes no"):
        read_checkpoint(str(bomb))
    assert read_checkpoint(str(weights))["model"]["a"].numel() == 1 << 20


def test_nothing_is_extracted(weights, tmp_path):
    """Names in an archive that lead elsewhere (zip-slip)."""
    with zipfile.ZipFile(weights, "a") as archive:
        archive.writestr("../../outside.txt", "text")
    before = sorted(tmp_path.parent.rglob("*"))
    with pytest.raises(CheckpointError, match="not in a subdirectory"):
        read_checkpoint(str(weights))
    assert sorted(tmp_path.parent.rglob("*")) == before


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
