"""A run that is killed and resumed, however often and wherever, is the run that never was."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from functools import partial
from pathlib import Path

import harness
import pytest
from harness import Run, assert_same_run

STARTED = "Starting training from iteration"
KILLED = -signal.SIGKILL


def resume(config: Path, output: Path, *options: str) -> Run:
    run = Run(config, output, "--resume", *options)
    run.finish()
    return run


@pytest.mark.parametrize("num_workers", [0, 2])
def test_killed_at_random_moments(config, undisturbed, tmp_path, num_workers):
    """Ten kills each, in as many runs as it takes; the number of workers is nobody's business."""
    rng = random.Random(num_workers)
    workers = f"dataloader.train.num_workers={num_workers}"
    outputs, kills = [tmp_path / "0"], 0
    while kills < 10:
        run = Run(config, outputs[-1], "--resume", workers)
        run.wait_for(STARTED)
        time.sleep(rng.uniform(0, 0.3))
        run.kill()
        if run.process.exitcode == KILLED:
            kills += 1
        else:
            outputs.append(tmp_path / f"{len(outputs)}")
    resume(config, outputs[-1], workers)
    for output in outputs:
        assert_same_run(output, undisturbed)


@pytest.mark.parametrize(("number", "byte"), [(1, 100), (3, 9000), (4, 1000), (9, 5000)])
def test_killed_while_a_checkpoint_is_written(config, undisturbed, tmp_path, number, byte):
    """The fourth is of the best weights."""
    output = tmp_path / "output"
    run = Run(config, output, prepare=partial(harness.die_while_writing, number, byte))
    run.finish(KILLED)
    assert list(output.glob("*.tmp"))
    for path in output.glob("*.pth"):
        harness.checkpoint(output, path.stem)  # reads: none is half written
    resume(config, output)
    assert not list(output.glob("*.tmp"))
    assert_same_run(output, undisturbed)


@pytest.mark.parametrize("number", [1, 2, 3, 6, 19])
def test_killed_between_a_checkpoint_and_its_tag(config, undisturbed, tmp_path, number):
    output = tmp_path / "output"
    run = Run(config, output, prepare=partial(harness.die_before_rename, number))
    run.finish(KILLED)
    resume(config, output)
    assert_same_run(output, undisturbed)


def test_a_data_worker_is_killed(config, undisturbed, tmp_path):
    output = tmp_path / "output"
    run = Run(config, output)
    run.wait_for("iter: 4")
    worker = run.children()[0]
    os.kill(worker, signal.SIGKILL)
    assert run.finish(5).startswith(f"error: the data worker with pid {worker} died at iteration")
    resume(config, output)
    assert_same_run(output, undisturbed)


# Nothing is ever better by 100 AP than the first evaluation, so that the run ends after the fourth, at iteration 15.
FINE_TUNING = (
    "train.accumulate=2",
    "train.ema.enabled=true",
    "train.early_stopping={patience: 3, min_delta: 100}",
    "train.eval_period=4",
)


@pytest.fixture(scope="module")
def undisturbed_fine_tuning(config) -> Path:
    run = Run(config, config.parent / "fine_tuning", *FINE_TUNING)
    run.finish()
    assert harness.checkpoint(run.output)["iteration"] == 15
    assert len(list(run.output.glob("model_[bf]*.pth"))) == 3
    return run.output


@pytest.mark.parametrize(
    ("number", "name"),
    [(1, "model_best_ema"), (3, "model_0"), (4, "model_0"), (1, "model_final_ema"), (2, "model_final")],
)
def test_a_run_with_averaged_weights_that_ends_early_is_killed(config, undisturbed_fine_tuning, tmp_path, number, name):
    """Before and after evaluations, and between the last files."""
    output = tmp_path / "output"
    run = Run(config, output, *FINE_TUNING, prepare=partial(harness.die_before_rename, number, name))
    run.finish(KILLED)
    resume(config, output, *FINE_TUNING)
    assert_same_run(output, undisturbed_fine_tuning)


@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1"])
def test_a_signal_saves_and_exits(config, undisturbed, tmp_path, name):
    """Sent to the whole group, data workers included, as a cluster does; several times over."""
    rng = random.Random(name)
    output, stops = tmp_path / "output", 0
    for _ in range(3):
        run = Run(config, output, "--resume", "auto", "train.checkpointer.period=0")
        run.wait_for(STARTED)
        time.sleep(rng.uniform(0.05, 0.3))
        with contextlib.suppress(ProcessLookupError):
            os.killpg(run.process.pid, getattr(signal, name))
        run.finish(None)
        if run.process.exitcode == 0:  # it had done its last step
            break
        assert run.process.exitcode == 4, run.messages[-2000:]
        assert f"stopped by {name} after iteration" in run.messages.splitlines()[-1]
        stops += 1
    assert stops
    resume(config, output, "auto")
    assert_same_run(output, undisturbed)


def test_without_a_seed_a_resumed_run_still_goes_on_in_its_stream(config, tmp_path):
    """The seed of a run that has none in its config is in its checkpoints."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    run = Run(config, whole, "train.seed=-1")
    run.finish()
    killed.mkdir()
    for name in ("model_0000027.pth", "metrics.json"):
        (killed / name).write_bytes((whole / name).read_bytes())
    resume(config, killed, "train.seed=-1")
    harness.assert_same(harness.checkpoint(killed), harness.checkpoint(whole))
    assert harness.metrics(killed) == harness.metrics(whole)
