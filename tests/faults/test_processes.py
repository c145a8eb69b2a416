"""A job of two processes: the same from every launcher, and what happens when one of them fails."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import harness
import pytest
from harness import Run, assert_same_run, run_two

# One way to compute: which one is fastest may be measured differently in the next run.
SAME = "train.optimizations.training=none"


def finish(job: list[Run], status: int = 0) -> None:
    for run in job:
        run.finish(status)


@pytest.fixture(scope="module")
def undisturbed_two(config):
    job = run_two(config, config.parent / "undisturbed_two", SAME)
    finish(job)
    return job[0].output


@pytest.mark.parametrize("rank", [0, 1])
def test_a_signal_to_one_process_stops_and_saves_all(config, undisturbed_two, tmp_path, rank):
    """They agree on the iteration; random generators of both are in the checkpoint."""
    output = tmp_path / "output"
    finish(run_two(config, output, SAME, "model.fault=SIGTERM", f"model.rank={rank}", "model.at=9"), status=4)
    assert harness.checkpoint(output, "model_0000009")["iteration"] == 9
    finish(run_two(config, output, "--resume", SAME))
    assert_same_run(output, undisturbed_two)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_signal_to_a_process_and_its_workers_in_an_evaluation(config, undisturbed_two, tmp_path, rank):
    """The workers outlive it: a process without them would leave the other waiting for its share of the results."""
    output, options = tmp_path / "output", ("dataloader.test.num_workers=1", f"model.rank={rank}")
    finish(run_two(config, output, SAME, "model.stop_evaluation=true", *options), status=4)
    assert harness.checkpoint(output, "model_0000011")["iteration"] == 11
    assert harness.metrics(output)[-1]["bbox/AP"] == harness.metrics(undisturbed_two)[2]["bbox/AP"]
    finish(run_two(config, output, "--resume", SAME))
    assert_same_run(output, undisturbed_two)


def test_a_batch_that_is_bad_in_one_process_is_skipped_in_both(config, tmp_path):
    output = tmp_path / "output"
    finish(run_two(config, output, "model.nan_images=[5.png]", "train.max_skips=2", "train.max_iter=6"))
    assert harness.metrics(output)[-1]["skipped_steps"] == 2
    steps = harness.checkpoint(output)["trainer"]["optimizer"]["state"].values()
    assert {int(state["step"]) for state in steps} == {6 - 2}


# --num-gpus starts processes on the CPU too; torchrun is told not to look for GPUs.
LAUNCHERS = {
    "num-gpus": (harness.use_one_thread, ("--num-gpus", "2"), ("train.device=cpu",)),
    "torchrun": (harness.use_torchrun, ("--num-gpus", "0"), ()),
}


def launch_two(launcher: str, config: Path, output: Path, *options: str) -> Run:
    prepare, flags, overrides = LAUNCHERS[launcher]
    flags = (*flags, *(option for option in options if "=" not in option))
    return Run(config, output, *flags, SAME, *overrides, *(o for o in options if "=" in o), prepare=prepare)


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_every_launcher_leads_to_the_same_run(config, undisturbed_two, tmp_path, launcher):
    launch_two(launcher, config, tmp_path / "output").finish()
    assert_same_run(tmp_path / "output", undisturbed_two)


def test_two_machines_are_the_same_run(config, undisturbed_two, tmp_path):
    place = ("--num-gpus", "0", "--num-machines", "2", "--dist-url", f"tcp://127.0.0.1:{harness.free_port()}")
    output = tmp_path / "output"
    prepare = harness.use_one_thread
    finish([Run(config, output, *place, "--machine-rank", f"{i}", SAME, prepare=prepare, rank=i) for i in range(2)])
    assert_same_run(output, undisturbed_two)


def test_a_sharded_run_is_the_same_up_to_rounding_and_goes_on_without(config, undisturbed_two, tmp_path):
    output, fsdp = tmp_path / "output", ("train.fsdp.enabled=true", "train.fsdp.units=[Linear]")
    launch_two("num-gpus", config, output, "model.fault=SIGKILL", "model.at=30", *fsdp).finish(5)
    launch_two("num-gpus", config, output, "--resume").finish()
    a, b = (harness.checkpoint(path) for path in (output, undisturbed_two))
    assert a.keys() == b.keys()
    assert list(a["model"]) == list(b["model"])
    rows, expected = harness.metrics(output), harness.metrics(undisturbed_two)
    assert [row.keys() for row in rows] == [row.keys() for row in expected]
    losses, of_ddp = ([row["total_loss"] for row in these if "total_loss" in row] for these in (rows, expected))
    assert losses == pytest.approx(of_ddp, rel=1e-4)


@pytest.mark.parametrize("launcher", LAUNCHERS)
@pytest.mark.parametrize("fault", ["raise", "SIGKILL", "hang"])
def test_a_process_that_fails_brings_the_job_down_and_is_named(config, tmp_path, launcher, fault):
    limit = {"hang": 8}.get(fault, 600)  # nobody waits that long for one that is gone
    options = (f"model.fault={fault}", "model.rank=1", "model.at=5", f"train.dist_timeout={limit}")
    run = launch_two(launcher, config, tmp_path / "output", *options)
    run.finish({"raise": 1, "SIGKILL": 5, "hang": 5}[fault] if launcher == "num-gpus" else 1)
    first = {
        "raise": "ValueError: the saboteur's error",
        "SIGKILL": "was killed by SIGKILL" if launcher == "num-gpus" else "exitcode  : -9",
        "hang": "error: process 1 of 2 hangs: nothing for 8 s (train.dist_timeout) in iteration 5, in the forward pass",
    }[fault]
    assert first in run.messages
    assert "error: process 0" not in run.messages
    if fault == "hang":
        assert "_suffer" in run.messages  # the stack
    if launcher == "num-gpus":
        assert run.messages.splitlines()[-1].startswith("error: process 1 of 2 (pid ")
    else:
        assert "rank      : 1" in run.messages.split("Root Cause")[1]


def test_a_process_that_is_frozen_is_named_by_the_other(config, tmp_path):
    options = ("model.fault=SIGSTOP", "model.rank=1", "model.at=5", "train.dist_timeout=8")
    run = launch_two("num-gpus", config, tmp_path / "output", *options)
    run.finish(5)
    assert "process 0 of 2 waited 8 s (train.dist_timeout) in iteration 5" in run.messages
    assert "for the processes [1], which hang or are out of reach" in run.messages


def test_a_job_that_lost_a_process_resumes_as_itself(config, undisturbed_two, tmp_path):
    output = tmp_path / "output"
    launch_two("num-gpus", config, output, "model.fault=SIGKILL", "model.rank=1", "model.at=30").finish(5)
    launch_two("num-gpus", config, output, "--resume").finish()
    assert_same_run(output, undisturbed_two)


@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1"])
def test_a_signal_to_the_launcher_reaches_the_processes(config, undisturbed_two, tmp_path, name):
    output = tmp_path / "output"
    run = launch_two("num-gpus", config, output, "train.checkpointer.period=0")
    run.wait_for("iter: 4")
    os.kill(run.process.pid, getattr(signal, name))
    run.finish(4)
    assert f"stopped by {name} after iteration" in run.messages
    launch_two("num-gpus", config, output, "--resume").finish()
    assert_same_run(output, undisturbed_two)


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_without_their_launcher_the_processes_end(config, tmp_path, launcher):
    run = launch_two(launcher, config, tmp_path / "output", "train.max_iter=100000", "train.eval_period=0")
    run.wait_for("iter: 4")
    processes = run.children()
    assert len(processes) == 2
    run.kill()
    wait_for_end(processes, run)
    assert "its launcher is gone" in run.messages


def test_ctrl_c_ends_the_job(config, tmp_path):
    run = launch_two("num-gpus", config, tmp_path / "output", "train.max_iter=100000", "train.eval_period=0")
    run.wait_for("iter: 4")
    processes = run.children()
    os.kill(run.process.pid, signal.SIGINT)
    run.finish(128 + signal.SIGINT)
    wait_for_end(processes, run)
    assert run.messages.splitlines()[-1] == "error: ended by SIGINT"


def wait_for_end(processes: list[int], run: Run) -> None:
    for pid in processes:
        end = time.monotonic() + 60
        while Path(f"/proc/{pid}").exists():
            assert time.monotonic() < end, run.messages
            time.sleep(0.02)


# ------------------------------------------------------------------------------------------------- partners that lack
def test_a_process_whose_partner_does_not_come_ends(config, tmp_path):
    first = harness.be_one_of_two(0, harness.free_port())
    run = Run(config, tmp_path / "output", "--num-gpus", "0", "train.dist_timeout=2", prepare=first)
    assert "error: process 0 of 2 did not meet all others at 127.0.0.1:" in run.finish(5)
    assert "within 2 s (train.dist_timeout)" in run.messages


def test_a_machine_whose_partner_does_not_come_ends(config, tmp_path):
    """Two machines that are told different meeting places."""
    for rank in range(2):
        url = f"tcp://127.0.0.1:{harness.free_port()}"
        place = ("--num-gpus", "0", "--num-machines", "2", "--machine-rank", f"{rank}", "--dist-url", url)
        run = Run(config, tmp_path / f"{rank}", *place, "train.dist_timeout=2")
        message = run.finish(5)
        assert f"error: machine {rank} of 2 did not meet the others at {url} within 2 s (train.dist_timeout)" in message
