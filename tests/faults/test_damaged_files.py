"""Checkpoints that are cut off, changed or read-only, and disks that are full."""

from __future__ import annotations

import random
import shutil
import zipfile
from functools import partial
from pathlib import Path

import harness
import pytest
import torch
from harness import Run, assert_same_run
from torch import nn

from detrex.checkpoint import Checkpointer, CheckpointError


@pytest.fixture
def stopped(config, undisturbed, tmp_path) -> Path:
    """Output of a run that died after iteration 31, with checkpoints of iterations 23, 27 and 31."""
    output = tmp_path / "output"
    shutil.copytree(undisturbed, output)
    (output / "model_final.pth").unlink()
    (output / "last_checkpoint").write_text("model_0000031.pth")
    return output


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip_bit(path: Path) -> None:
    """Within the largest entry, for the bytes between entries mean nothing."""
    data = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        entry = archive.read(max(archive.infolist(), key=lambda info: info.file_size))
    data[data.index(entry) + len(entry) // 2] ^= 4
    path.write_bytes(data)


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [truncate, flip_bit, empty, Path.unlink])
def test_a_damaged_newest_checkpoint_is_passed_over(config, undisturbed, stopped, damage):
    damage(stopped / "model_0000031.pth")
    run = Run(config, stopped, "--resume")
    run.finish()
    assert "Starting training from iteration 28" in run.messages
    if damage is not Path.unlink:
        message = next(line for line in run.messages.splitlines() if "Passed over" in line)
        assert "model_0000031.pth is damaged" in message
    assert_same_run(stopped, undisturbed)


def test_a_run_whose_checkpoints_are_all_damaged_does_not_start_anew(config, stopped):
    for path in stopped.glob("model_0*.pth"):
        truncate(path)
    run = Run(config, stopped, "--resume")
    message = run.finish(2)
    assert "no valid checkpoint to resume from" in message
    assert message.count("is damaged or cut off") == 3
    assert "Starting training" not in run.messages


def test_read_only_checkpoints_are_resumed_from_and_replaced(config, undisturbed, stopped):
    for path in stopped.glob("*.pth"):
        path.chmod(0o444)
    run = Run(config, stopped, "--resume")
    run.finish()
    assert_same_run(stopped, undisturbed)


@pytest.mark.parametrize("seed", range(4))
def test_a_flipped_bit_never_loads_as_something_else(tmp_path, seed):
    """It is found, or it is in bytes that mean nothing."""
    torch.manual_seed(seed)
    model = nn.Linear(16, 4)
    Checkpointer(model, str(tmp_path)).save("model_0000001")
    path, rng = tmp_path / "model_0000001.pth", random.Random(seed)
    sound, found = path.read_bytes(), 0
    for _ in range(100):
        data = bytearray(sound)
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        path.write_bytes(data)
        other = nn.Linear(16, 4)
        try:
            Checkpointer(other).load(str(path))
        except CheckpointError:
            found += 1
        else:
            assert torch.equal(other.weight, model.weight)
            assert torch.equal(other.bias, model.bias)
    assert found > 20  # much of so small a file is padding


@pytest.mark.parametrize("number", [1, 3])
def test_a_full_disk_stops_the_run_and_leaves_the_last_checkpoint(config, undisturbed, tmp_path, number):
    output = tmp_path / "output"
    run = Run(config, output, prepare=partial(harness.fill_disk, number, 4000))
    last = run.finish(5)
    assert "cannot write" in last
    assert "No space left on device" in last
    kept = "There is no checkpoint yet" if number == 1 else "model_0000007.pth, is intact"
    assert kept in last
    assert not list(output.glob("*.tmp"))
    run = Run(config, output, "--resume")
    run.finish()
    assert_same_run(output, undisturbed)


def test_a_write_that_the_kernel_refuses(config, undisturbed, tmp_path):
    output = tmp_path / "output"
    run = Run(config, output, prepare=partial(harness.limit_file_size, 20_000))
    last = run.finish(5)
    assert "cannot write" in last
    assert "File too large" in last
    run = Run(config, output, "--resume")
    run.finish()
    assert_same_run(output, undisturbed)
