"""Faults in a job of two processes."""

from __future__ import annotations

import harness
import pytest
from harness import Run, assert_same_run, run_two


def finish(job: list[Run], status: int = 0) -> None:
    for run in job:
        run.finish(status)


@pytest.fixture(scope="module")
def undisturbed_two(config):
    job = run_two(config, config.parent / "undisturbed_two")
    finish(job)
    return job[0].output


@pytest.mark.parametrize("rank", [0, 1])
def test_a_signal_to_one_process_stops_and_saves_all(config, undisturbed_two, tmp_path, rank):
    """They agree on the iteration; random generators of both are in the checkpoint."""
    output = tmp_path / "output"
    finish(run_two(config, output, f"model.terminate_rank={rank}", "model.at=9"), status=4)
    assert harness.checkpoint(output, "model_0000009")["iteration"] == 9
    finish(run_two(config, output, "--resume"))
    assert_same_run(output, undisturbed_two)


def test_a_batch_that_is_bad_in_one_process_is_skipped_in_both(config, tmp_path):
    output = tmp_path / "output"
    finish(run_two(config, output, "model.nan_images=[5.png]", "train.max_skips=2", "train.max_iter=6"))
    assert harness.metrics(output)[-2]["skipped_steps"] == 2
    steps = harness.checkpoint(output)["trainer"]["optimizer"]["state"].values()
    assert {int(state["step"]) for state in steps} == {6 - 2}
