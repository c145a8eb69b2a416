"""Numbers that are not finite, broken images, and memory that runs out."""

from __future__ import annotations

import errno
import re
from functools import partial
from pathlib import Path

import harness
import pytest
import torch
from harness import Run, assert_same_run, spoil_reading
from saboteur import write_sabotage_config


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A config of the test's own, since images get broken; loaded in the training process."""
    return write_sabotage_config(tmp_path)


@pytest.mark.parametrize("kind", ["loss", "gradient"])
def test_what_is_not_finite_stops_the_run_and_is_named(config, tmp_path, kind):
    option = {"loss": "model.nan_images=[5.png]", "gradient": "model.nan_gradients=[5.png]"}[kind]
    run = Run(config, tmp_path / "output", option)
    message = run.finish(3)
    iteration = int(re.search(rf"{kind} is not finite at iteration (\d+)", message).group(1))
    assert iteration < 3  # each image comes once in three iterations
    assert "5.png" in message.split("images: ")[1]
    layer = re.search(r"layer: (.*?); batch", message).group(1)
    assert layer.startswith("the losses, after the last layer" if kind == "loss" else "head (its output's gradient")
    saved = torch.load(tmp_path / "output" / f"non_finite_{iteration:07d}.pth", weights_only=True)
    assert len(saved["batch"]) == 4
    assert {"image", "file_name", "instances"} <= saved["batch"][0].keys()
    assert saved["values"]["grad_norm"] != saved["values"]["grad_norm"]


def test_steps_that_are_not_finite_are_skipped_up_to_a_limit(config, tmp_path):
    """One batch of three in each epoch is bad, never two in a row for long."""
    output = tmp_path / "output"
    run = Run(config, output, "model.nan_images=[5.png]", "train.max_skips=2")
    run.finish()
    assert run.messages.count("is not finite at iteration") == 12
    assert harness.metrics(output)[-1]["skipped_steps"] == 12
    assert len(list(output.glob("non_finite_*.pth"))) == 10
    state = harness.checkpoint(output)
    assert all(torch.isfinite(value).all() for value in state["model"].values())
    assert {int(s["step"]) for s in state["trainer"]["optimizer"]["state"].values()} == {36 - 12}

    every = ",".join(f"{i}.png" for i in range(12))
    run = Run(config, tmp_path / "all", f"model.nan_images=[{every}]", "train.max_skips=2")
    assert "not finite at iteration 2" in run.finish(3)


def test_skipped_steps_resume_too(config, tmp_path):
    options = ("model.nan_images=[5.png]", "train.max_skips=2")
    undisturbed, output = Run(config, tmp_path / "a", *options), tmp_path / "b"
    undisturbed.finish()
    run = Run(config, output, *options)
    run.wait_for("iter: 19")
    run.kill()
    Run(config, output, "--resume", *options).finish()
    assert_same_run(output, undisturbed.output)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_broken_image_is_skipped_counted_and_never_fatal(config, tmp_path, num_workers):
    output = tmp_path / "output"
    options = ("model.break_images=[3.png,8.png]", "model.at=7", f"dataloader.train.num_workers={num_workers}")
    run = Run(config, output, *options)
    run.finish()
    assert run.messages.count("Broken image") == 2
    assert re.search(r"Broken image 2, skipped: \S+[38]\.png: ", run.messages)
    assert harness.metrics(output)[-1]["broken_images"] == 2


def test_a_broken_validation_image_costs_the_evaluation_its_result(config, tmp_path):
    output = tmp_path / "output"
    run = Run(config, output, "model.break_images=[../val/3.png]", "model.at=14")
    assert "The evaluation of iteration 23 failed and has no result" in run.finish()
    assert [row["iteration"] for row in harness.metrics(output) if "bbox/AP" in row] == [11]
    assert harness.checkpoint(output)["iteration"] == 35


def test_a_validation_image_of_another_size_costs_the_evaluation_its_result(config, tmp_path):
    """In training; an evaluation by itself ends with one line and status 2."""
    output = tmp_path / "output"
    run = Run(config, output, prepare=partial(spoil_reading, "val/3.png", None))
    messages = run.finish()
    assert "The evaluation of iteration 11 failed and has no result" in messages
    assert "Traceback" not in messages
    weights = f"train.init_checkpoint={output / 'model_final.pth'}"
    again = Run(config, output, "--eval-only", weights, prepare=partial(spoil_reading, "val/3.png", None))
    message = again.finish(2)
    assert "error: an image cannot be evaluated" in message
    assert "3.png" in message
    assert "Traceback" not in again.messages


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("part", ["data", "val"])
def test_a_disk_that_fails_ends_the_run_with_its_own_status(config, tmp_path, part, num_workers):
    """Not as a broken image, which would be skipped, or end it with status 2."""
    workers = (f"dataloader.train.num_workers={num_workers}", f"dataloader.test.num_workers={num_workers}")
    run = Run(config, tmp_path / "output", *workers, prepare=partial(spoil_reading, f"{part}/3.png", errno.ESTALE))
    message = run.finish(5)
    assert "error: the machine cannot read an image" in message
    assert "3.png" in message
    assert "Traceback" not in message
    assert "Broken image" not in run.messages


def test_more_broken_images_than_allowed_stop_the_run(config, tmp_path):
    run = Run(config, tmp_path / "output", "model.break_images=[3.png,8.png]", "dataloader.train.max_broken_images=1")
    message = run.finish(2)
    assert "2 images cannot be read, and dataloader.train.max_broken_images=1" in message
    assert "3.png" in message
    assert "8.png" in message


def test_a_run_with_broken_images_resumes_as_itself(config, tmp_path):
    """What takes the place of a broken image follows from the seed too."""
    options = ("model.break_images=[3.png]", "dataloader.train.num_workers=2")
    whole, output = Run(config, tmp_path / "a", *options), tmp_path / "b"
    whole.finish()  # from here on the image is broken
    again = Run(config, tmp_path / "c")
    again.finish()
    run = Run(config, output)
    run.wait_for("iter: 19")
    run.kill()
    resumed = Run(config, output, "--resume")
    resumed.finish()
    assert_same_run(output, again.output)


def test_memory_that_runs_out_says_what_to_change(config, tmp_path):
    run = Run(config, tmp_path / "output", "model.exhaust_memory=true", "model.at=6")
    message = run.finish(5)
    assert message.startswith("error: out of memory at iteration 6 on cpu. The batch: 4 images, 64 x 64")
    for words in ("the largest is ", ".png, 64 x 64, 1 boxes", "dataloader.train.total_batch_size", "train.amp"):
        assert words in message
