"""Training as scripts do it: all hooks, interruption and resume, and two processes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.engine import SimpleTrainer, create_ddp_model, default_writers, hooks
from detectron2.engine.launch import launch
from detectron2.solver import WarmupParamScheduler
from detectron2.utils import comm
from fvcore.common.param_scheduler import MultiStepParamScheduler
from torch import Tensor, nn

from .conftest import LITE, lite_only

MAX_ITER = 12


class _Regression(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 1)

    def forward(self, batch: Tensor) -> dict[str, Tensor]:
        error = self.linear(batch) - batch.sum(-1, keepdim=True)
        return {"loss_square": error.square().mean(), "loss_abs": 0.1 * error.abs().mean()}


class _Batches:
    """The batch of iteration i depends on i alone, so that a resumed training sees what it would have seen."""

    def __init__(self, start: int) -> None:
        self.start = start

    def __iter__(self) -> Iterator[Tensor]:
        iteration = self.start
        while True:
            yield torch.randn(8, 4, generator=torch.Generator().manual_seed(iteration))
            iteration += 1


class _Stop(Exception):
    pass


def _train(folder: Path, *, resume: bool = False, stop_at: int | None = None) -> tuple[nn.Module, SimpleTrainer]:
    torch.manual_seed(1)
    model = _Regression()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    # Created before the data loader, whose position follows from the iteration.
    trainer = SimpleTrainer(model, None, optimizer)
    checkpointer = DetectionCheckpointer(model, str(folder), trainer=trainer)
    schedule = WarmupParamScheduler(MultiStepParamScheduler([1, 0.1], milestones=[8, 12]), 0.01, 2 / MAX_ITER)

    def stop(trainer: SimpleTrainer) -> None:
        if trainer.iter == stop_at:
            raise _Stop

    trainer.register_hooks(
        [
            hooks.IterationTimer(),
            hooks.LRScheduler(scheduler=schedule),
            hooks.PeriodicCheckpointer(checkpointer, 5),
            hooks.EvalHook(4, lambda: {"fit": {"weight": model.linear.weight.mean().item()}}),
            hooks.PeriodicWriter(default_writers(str(folder), MAX_ITER), period=2),
            hooks.CallbackHook(before_step=stop),
        ]
    )
    checkpointer.resume_or_load("", resume=resume)
    start = trainer.iter + 1 if resume and checkpointer.has_checkpoint() else 0
    trainer.data_loader = _Batches(start)
    trainer.train(start, MAX_ITER)
    return model, trainer


def _metrics(folder: Path) -> dict[int, dict[str, float]]:
    return {line["iteration"]: line for line in map(json.loads, (folder / "metrics.json").read_text().splitlines())}


def test_a_training(tmp_path: Path) -> None:
    model, trainer = _train(tmp_path)
    files = {path.name for path in tmp_path.iterdir() if not path.name.startswith("events.out.tfevents")}
    names = {"model_0000004.pth", "model_0000009.pth", "model_final.pth", "last_checkpoint", "metrics.json"}
    assert files == names
    assert list(tmp_path.glob("events.out.tfevents*"))

    content = torch.load(tmp_path / "model_final.pth", weights_only=True)
    assert set(content) == {"model", "trainer", "iteration"}
    assert content["iteration"] == content["trainer"]["iteration"] == MAX_ITER - 1
    assert set(content["trainer"]) == {"iteration", "optimizer", "hooks"}
    assert content["trainer"]["hooks"]["LRScheduler"]["last_epoch"] == MAX_ITER
    assert torch.equal(content["model"]["linear.weight"], model.linear.weight)

    metrics = _metrics(tmp_path)
    assert {1, 3, 5, 7, 9, 11, MAX_ITER} <= set(metrics)
    assert {"total_loss", "loss_square", "loss_abs", "lr", "data_time"} <= set(metrics[11])
    assert set(metrics[MAX_ITER]) == {"fit/weight", "iteration"}  # the evaluation after training comes last
    assert metrics[3]["fit/weight"] == trainer.storage.history("fit/weight").values()[0][0]
    assert metrics[11]["lr"] == pytest.approx(0.005)


def test_an_interrupted_training_ends_as_an_uninterrupted_one(tmp_path: Path) -> None:
    whole, _ = _train(tmp_path / "whole")
    with pytest.raises(_Stop):
        _train(tmp_path / "parts", stop_at=7)
    assert (tmp_path / "parts" / "last_checkpoint").read_text() == "model_0000004.pth"
    resumed, trainer = _train(tmp_path / "parts", resume=True)
    assert trainer.start_iter == 5
    assert torch.equal(resumed.linear.weight, whole.linear.weight)
    whole_metrics, metrics = _metrics(tmp_path / "whole"), _metrics(tmp_path / "parts")
    assert metrics[11]["lr"] == whole_metrics[11]["lr"]
    assert set(metrics) >= set(whole_metrics)  # continued, not written over


# Two processes


def _communicate(folder: str) -> None:
    torch.set_num_threads(1)
    rank = comm.get_rank()
    assert (comm.get_world_size(), comm.get_local_size(), comm.get_local_rank()) == (2, 2, rank)
    assert comm.get_local_process_group() is comm._LOCAL_PROCESS_GROUP
    assert comm.all_gather({"rank": rank}) == [{"rank": 0}, {"rank": 1}]
    assert comm.gather(rank) == ([0, 1] if rank == 0 else [])
    assert comm.gather(rank, dst=1) == ([0, 1] if rank == 1 else [])
    assert len(set(comm.all_gather(comm.shared_random_seed()))) == 1
    reduced = comm.reduce_dict({"b": torch.tensor(float(rank)), "a": torch.tensor(1.0)})
    if comm.is_main_process():
        assert reduced == {"a": 1.0, "b": 0.5}
    comm.synchronize()
    _train_together(Path(folder))
    if LITE:  # the full one has code for it, but never reaches it, as fvcore has unwrapped the model
        _load_where_only_rank_0_can_read(Path(folder))


def _train_together(folder: Path) -> None:
    rank = comm.get_rank()
    torch.manual_seed(rank)  # DistributedDataParallel takes the weights of rank 0
    kwargs: dict[str, Any] = {} if LITE else {"device_ids": None}  # the full one passes a GPU for a model on the CPU
    model = create_ddp_model(_Regression(), **kwargs)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    trainer = SimpleTrainer(model, _Batches(100 * rank), optimizer)
    checkpointer = DetectionCheckpointer(model, str(folder), trainer=trainer)
    writers = [hooks.PeriodicWriter(default_writers(str(folder), 3))] if comm.is_main_process() else []
    evaluation = hooks.EvalHook(2, lambda: {"x": rank})
    trainer.register_hooks([hooks.PeriodicCheckpointer(checkpointer, 10), evaluation, *writers])
    trainer.train(0, 3)
    weights = comm.all_gather(model.module.linear.weight.detach())
    assert torch.equal(*weights)
    assert (folder / "model_final.pth").exists() or rank == 1
    losses = comm.all_gather(trainer.storage.latest().get("total_loss"))
    assert losses[0] is not None
    assert losses[1] is None  # stored on rank 0 only


def _load_where_only_rank_0_can_read(folder: Path) -> None:
    rank = comm.get_rank()
    model = create_ddp_model(_Regression())
    trainer = SimpleTrainer(model, None, torch.optim.SGD(model.parameters(), lr=1.0))
    # Each rank looks at a folder of its own; only that of rank 0 has the file.
    own = folder / str(rank)
    own.mkdir()
    checkpointer = DetectionCheckpointer(model, str(own), trainer=trainer)
    if comm.is_main_process():
        nn.init.constant_(model.module.linear.weight, 3.0)
        trainer.iter = 41
        checkpointer.save("model_x", iteration=41)
        nn.init.constant_(model.module.linear.weight, 0.0)
        trainer.iter = 0
    comm.synchronize()
    rest = checkpointer.resume_or_load("", resume=True)
    assert model.module.linear.weight.unique().tolist() == [3.0]
    assert trainer.iter == rest["iteration"] == 41


def test_two_processes(tmp_path: Path) -> None:
    launch(_communicate, 2, dist_url="auto", args=(str(tmp_path),))
    assert (tmp_path / "last_checkpoint").read_text() == "model_final.pth"
    keys = torch.load(tmp_path / "model_final.pth", weights_only=True)["model"]
    assert set(keys) == {"linear.weight", "linear.bias"}  # without "module."


def _average_gradients_on_the_cpu() -> None:
    torch.set_num_threads(1)
    model = create_ddp_model(nn.Linear(1, 1))
    model(torch.full((1, 1), float(comm.get_rank()))).sum().backward()
    assert model.module.weight.grad.item() == 0.5


@lite_only("passes a GPU's index for a model on the CPU: ValueError")
def test_ddp_on_the_cpu() -> None:
    launch(_average_gradients_on_the_cpu, 2, dist_url="auto")


def _fail_on_rank_1() -> None:
    if comm.get_rank() == 1:
        raise RuntimeError("on purpose")


def test_a_failing_process_ends_the_job() -> None:
    with pytest.raises(Exception, match="on purpose"):
        launch(_fail_on_rank_1, 2, dist_url="auto")
