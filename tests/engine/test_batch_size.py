"""What memory has to suffice for: the largest batch, a step of it before the first one, and the batch that fits."""

from __future__ import annotations

import random
from contextlib import nullcontext
from pathlib import Path

import detectron2.data.transforms as T
import numpy as np
import pytest
import torch
from stub_detector import write_config
from tiny import image_input, tiny_detector
from torch import nn

from detrex.cli.train import EXIT_CONFIG, EXIT_MACHINE, build_parser
from detrex.cli.train import main as run
from detrex.engine import batch_size
from detrex.engine.batch_size import dry_run, largest_by_memory, largest_size, largest_that_fits
from detrex.engine.train import main
from detrex.utils.random_state import seeded

CPU = torch.device("cpu")
SHORT = (480, 608, 800)
PLAIN = [T.RandomFlip(), T.ResizeShortestEdge(SHORT, 1333, "choice")]
CROP = [
    T.RandomFlip(),
    T.ResizeShortestEdge((400, 500, 600), sample_style="choice"),
    T.RandomCrop("absolute_range", (384, 600)),
    T.ResizeShortestEdge(SHORT, 1333, "choice"),
]


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return write_config(tmp_path)


def train(config: Path, *options: str) -> dict:
    return main(build_parser().parse_args(["--config-file", str(config), *options]))


def content(path: Path) -> dict:
    return torch.load(path, weights_only=True)


# -------------------------------------------------------------------------------------------------- the largest batch
@pytest.mark.parametrize(
    ("sizes", "chain", "grouped", "expected"),
    [
        ([(480, 640)], PLAIN, True, (800, 1067)),
        ([(480, 640), (300, 900)], PLAIN, True, (800, 1333)),
        ([(480, 640), (640, 480)], PLAIN, True, (800, 1067)),
        ([(480, 640), (640, 480)], PLAIN, False, (1067, 1067)),
        ([(480, 640)], CROP, True, (1250, 1250)),  # a crop of 384 x 600 or of 600 x 384
        ([(480, 640)], [T.Resize((200, 300))], True, (200, 300)),
        ([(100, 200)], [T.RandomCrop("relative", (0.5, 0.25))], True, (51, 51)),  # a pixel of rounding
        ([(100, 200)], [], True, (100, 200)),
    ],
)
def test_the_largest_size(sizes, chain, grouped, expected):
    assert largest_size(sizes, [chain], by_orientation=grouped) == expected


@pytest.mark.parametrize("kind", ["relative_range", "absolute_range", "absolute", "relative"])
def test_no_image_is_larger_and_crops_come_close(kind):
    crop = {"relative_range": (0.5, 0.4), "relative": (0.7, 0.6)}.get(kind, (50, 120))
    chains = [[T.ResizeShortestEdge((90, 150), 260), T.RandomCrop(kind, crop), T.ResizeShortestEdge((80, 120), 200)]]
    sizes = [(100, 180), (140, 150)]
    height, width = largest_size(sizes, chains, by_orientation=False)
    seen = []
    with seeded(0):
        for size in sizes * 150:
            sample = T.AugInput(np.zeros((*size, 3), np.uint8))
            T.AugmentationList(chains[0])(sample)
            seen.append(sample.image.shape[:2])
    most = np.max(seen, 0)
    assert (most <= (height, width)).all()
    assert (most > 0.8 * np.array([height, width])).all()


def test_augmentations_that_are_not_known_are_named(caplog):
    largest_size([(10, 10)], [[T.RandomRotation([0, 90])]], by_orientation=False)
    assert "RandomRotation is taken to keep the size" in caplog.text


# --------------------------------------------------------------------------------------------------------- the dry run
def test_nothing_of_a_run_changes():
    model = tiny_detector("two_stage")
    model.backbone = nn.Sequential(model.backbone)  # batch norm, whose buffers a forward pass changes
    model.backbone[0].stem = nn.Sequential(model.backbone[0].stem, nn.BatchNorm2d(8), nn.Dropout(0.5))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with seeded(5):
        draws = torch.rand(3), np.random.rand(), random.random()  # noqa: NPY002
    with seeded(5):
        peak = dry_run(
            model, [image_input(64, 96, 5), image_input(64, 96, 5)], parts=2, context=nullcontext, device=CPU
        )
        after = torch.rand(3), np.random.rand(), random.random()  # noqa: NPY002
    assert peak > 50 * 2**20
    assert torch.equal(draws[0], after[0])
    assert draws[1:] == after[1:]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


class Greedy(nn.Module):
    """Takes 100 MiB for each image."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, batch: list[dict]) -> dict[str, torch.Tensor]:
        return {"loss": (torch.ones(len(batch), 25 * 2**20) * self.weight).sum()}


def test_the_peak_is_of_the_batch():
    one, three = (dry_run(Greedy(), [{}] * images, parts=1, context=nullcontext, device=CPU) for images in (1, 3))
    assert 0.9 * 200 * 2**20 < three - one


def test_a_run_with_one_is_the_same_run(config, tmp_path):
    for name, on in (("plain", "false"), ("dry", "true")):
        train(config, f"train.output_dir={tmp_path}/{name}", f"train.dry_run={on}", "train.eval_period=0")
    log = (tmp_path / "dry" / "log.txt").read_text()
    assert "Dry run: 4 images of 64 x 64 pixels (height x width) with 1 objects each: peak memory " in log
    plain, dry = (content(tmp_path / name / "model_final.pth") for name in ("plain", "dry"))
    assert all(torch.equal(plain["model"][name], value) for name, value in dry["model"].items())
    assert torch.equal(
        plain["trainer"]["processes"][0]["random"]["torch"], dry["trainer"]["processes"][0]["random"]["torch"]
    )


def test_too_little_memory_says_what_to_change(config, capsys, monkeypatch):
    def exhausted(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("detrex.engine.batch_size.accumulate_gradients", exhausted)
    assert run(["--config-file", str(config), "train.dry_run=true"]) == EXIT_MACHINE
    error = capsys.readouterr().err
    assert "out of memory at the dry run before the first step on cpu. The batch: 4 images, 64 x 64" in error
    assert "train.accumulate=2" in error


# ------------------------------------------------------------------------------------------------- the batch that fits
@pytest.mark.parametrize("limit", [0, 1, 2, 3, 7, 8, 23, 40, 99])
def test_the_largest_that_fits_is_found_in_few_trials(limit):
    tried = []
    assert largest_that_fits(lambda n: tried.append(n) or n <= limit, 40) == min(limit, 40)
    assert len(tried) == len(set(tried)) <= 12


@pytest.mark.parametrize("most", [1, 2, 50])
@pytest.mark.parametrize("base", [10, 100])
@pytest.mark.parametrize("per_image", [1, 7, 30])
def test_the_largest_within_a_budget(base, per_image, most):
    tried = []
    budget = 130
    found = largest_by_memory(lambda n: tried.append(n) or base + per_image * n, budget, most)
    assert found == min((budget - base) // per_image, most)
    assert len(tried) <= 3
    assert tried == sorted(tried)


def test_memory_that_grows_faster_than_it_began_to():
    assert largest_by_memory(lambda n: 10 * n if n < 5 else 12 * n, 100, 50) in (7, 8)
    assert 12 * largest_by_memory(lambda n: 10 * n if n < 5 else 12 * n, 100, 50) <= 100


def test_auto_is_the_run_with_that_number_and_resumes_with_it(config, tmp_path, monkeypatch):
    measured = []

    def peak(model, batch, **_):
        measured.append(len(batch))
        torch.rand(1)  # trials draw random numbers
        return 2**30 * len(batch)

    monkeypatch.setattr(batch_size, "dry_run", peak)
    auto = ("dataloader.train.total_batch_size=auto", "train.auto_batch_size.cpu_memory_gib=6.5", "train.eval_period=0")
    scaled = "train.lr_scaling={rule: sqrt, base_batch_size: 24}"
    train(config, *auto, scaled, "train.checkpointer.period=2")
    assert measured == [1, 2, 6]
    log = (tmp_path / "output" / "log.txt").read_text()
    assert "total_batch_size: auto -> 6, the largest that fits into the 6.5 GiB" in log
    assert "optimizer.lr: 0.01 for a batch of 24 -> 0.005 for 6" in log
    assert "total_batch_size: 6" in (tmp_path / "output" / "config.yaml").read_text()

    given = ("dataloader.train.total_batch_size=6", "train.eval_period=0", f"train.output_dir={tmp_path}/given")
    train(config, *given, scaled)
    whole, same = (content(tmp_path / name / "model_final.pth") for name in ("output", "given"))
    assert all(torch.equal(same["model"][name], value) for name, value in whole["model"].items())

    (tmp_path / "output" / "last_checkpoint").write_text("model_0000003.pth")
    train(config, "--resume", *auto, "train.auto_batch_size.cpu_memory_gib=3", scaled)
    assert measured == [1, 2, 6]  # not asked again
    assert "auto -> 6, that of the run that is resumed" in (tmp_path / "output" / "log.txt").read_text()
    again = content(tmp_path / "output" / "model_final.pth")
    assert all(torch.equal(again["model"][name], value) for name, value in whole["model"].items())


def test_auto_measures_this_process(config, tmp_path):
    train(config, "dataloader.train.total_batch_size=auto", "train.auto_batch_size.max=3", "train.max_iter=2")
    log = (tmp_path / "output" / "log.txt").read_text()
    assert "auto -> 3, the largest that fits into the 4.0 GiB" in log
    assert "the most that train.auto_batch_size.max allows" in log


def test_on_a_gpu_sizes_are_tried_until_memory_runs_out(monkeypatch):
    calls = []
    for name in ("set_per_process_memory_fraction", "empty_cache"):
        monkeypatch.setattr(torch.cuda, name, lambda *args, name=name: calls.append((name, *args)))

    def measure(size: int) -> int:
        if size > 5:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return size

    device = torch.device("cuda", 0)
    assert largest_that_fits(lambda size: batch_size._fits(measure, size, device), 64) == 5
    fractions = [call[1] for call in calls if call[0].startswith("set")]
    assert fractions == [0.9, 1.0] * (len(fractions) // 2)


@pytest.mark.parametrize(
    ("options", "status", "message"),
    [
        (["dataloader.train.total_batch_size=atuo"], EXIT_CONFIG, "=atuo: expected a whole number or auto"),
        (
            ["dataloader.train.total_batch_size=auto", "train.auto_batch_size.cpu_memory_gib=0.001"],
            EXIT_MACHINE,
            "not even a batch of 1 fits into the 0.001 GiB",
        ),
        (
            ["dataloader.train.total_batch_size=auto", "train.accumulate=4", "train.auto_batch_size.max=3"],
            EXIT_CONFIG,
            "max=3 must be at least train.accumulate=4",
        ),
        (["train.lr_scaling.rule=square"], EXIT_CONFIG, "rule='square' must be one of none, linear, sqrt"),
    ],
)
def test_wrong_values(config, capsys, options, status, message):
    assert run(["--config-file", str(config), *options]) == status
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(("rule", "lr"), [("none", 0.01), ("linear", 0.0025), ("sqrt", 0.005)])
def test_the_learning_rate_follows_the_batch(config, tmp_path, rule, lr):
    """The batch is 4; all groups of parameters follow, the backbone's at a tenth."""
    options = ("train.max_iter=1", "train.eval_period=0", f"train.lr_scaling.rule={rule}")
    train(config, *options)
    groups = content(tmp_path / "output" / "model_final.pth")["trainer"]["optimizer"]["param_groups"]
    assert {round(group["initial_lr"], 9) for group in groups} == {lr, lr / 10}
    assert "lr: 0.01" in (tmp_path / "output" / "config.yaml").read_text()
