"""Trainers and hooks, one at a time; test_training.py has them together."""

from __future__ import annotations

import json
import logging
import math
import warnings
from argparse import Namespace
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.engine import (
    AMPTrainer,
    HookBase,
    SimpleTrainer,
    TrainerBase,
    create_ddp_model,
    default_argument_parser,
    default_setup,
    default_writers,
    hooks,
)
from detectron2.engine.launch import launch
from detectron2.utils.events import EventWriter, get_event_storage
from fvcore.common.param_scheduler import LinearParamScheduler
from omegaconf import OmegaConf
from torch import Tensor, nn

from .conftest import lite_only


class Model(nn.Module):
    """Two losses of the batch, the second negative."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"loss_a": (self.weight * x).sum(), "loss_b": -0.5 * (self.weight * x).sum()}


def batches(value: float = 1.0) -> Iterator[Tensor]:
    while True:
        yield torch.full((3,), value)


def trainer_of(
    *extra: HookBase | None,
    model: nn.Module | None = None,
    data: Iterator[Tensor] | None = None,
    cls: Callable[..., SimpleTrainer] = SimpleTrainer,
    lr: float = 0.1,
    **kwargs: Any,
) -> SimpleTrainer:
    model = model or Model()
    trainer = cls(model, data or batches(), torch.optim.SGD(model.parameters(), lr), **kwargs)
    trainer.register_hooks(list(extra))
    return trainer


class Log(HookBase):
    """Records what is called, with the iteration."""

    def __init__(self, name: str = "", record: list[str] | None = None) -> None:
        self.name, self.record = name, [] if record is None else record

    def _add(self, what: str) -> None:
        self.record.append(f"{self.name}{what}{self.trainer.iter}")

    def before_train(self) -> None:
        self._add("before_train")

    def after_train(self) -> None:
        self._add("after_train")

    def before_step(self) -> None:
        self._add("before_step")

    def after_backward(self) -> None:
        self._add("after_backward")

    def after_step(self) -> None:
        self._add("after_step")


# The loop


def test_order_of_hooks() -> None:
    log = Log()
    trainer = trainer_of(log, None)
    trainer.train(3, 5)
    steps = [f"{what}{i}" for i in (3, 4) for what in ("before_step", "after_backward", "after_step")]
    assert log.record == ["before_train3", *steps, "after_train5"]
    assert (trainer.start_iter, trainer.iter, trainer.max_iter) == (3, 5, 5)

    record: list[str] = []
    trainer_of(Log("a.", record), Log("b.", record)).train(0, 1)
    assert record[:4] == ["a.before_train0", "b.before_train0", "a.before_step0", "b.before_step0"]


def test_failure_in_a_step() -> None:
    def fail(trainer: TrainerBase) -> None:
        if trainer.iter == 2:
            raise RuntimeError("on purpose")

    log = Log()
    evaluations: list[int] = []
    evaluation = hooks.EvalHook(0, lambda: evaluations.append(1))
    trainer = trainer_of(log, hooks.CallbackHook(before_step=fail), evaluation)
    with pytest.raises(RuntimeError, match="on purpose"):
        trainer.train(0, 4)
    assert log.record[-1] == "after_train2"
    assert trainer.iter == 2
    assert not evaluations


def test_hooks_are_hooks() -> None:
    with pytest.raises((TypeError, AssertionError)):
        trainer_of("no hook")


def test_step_of_simple_trainer() -> None:
    model = Model()
    trainer = trainer_of(model=model)
    trainer.train(0, 2)
    assert model.weight.tolist() == pytest.approx([0.9] * 3)  # gradient 1 - 0.5, twice, at 0.1
    storage = trainer.storage
    assert storage.latest()["total_loss"] == (pytest.approx(0.5 * 3 * 0.95), 1)
    assert storage.latest()["loss_a"] == (pytest.approx(3 * 0.95), 1)
    assert {"loss_b", "data_time", "rank_data_time"} <= set(storage.latest())


def test_a_single_loss_is_the_total() -> None:
    class Single(Model):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x)["loss_a"]

    trainer = trainer_of(model=Single())
    trainer.train(0, 1)
    assert trainer.storage.latest()["total_loss"] == (3.0, 0)
    assert "loss_a" not in trainer.storage.latest()


def test_metrics_are_stored_periodically() -> None:
    trainer = trainer_of(gather_metric_period=3)
    trainer.train(0, 7)
    assert [iteration for _, iteration in trainer.storage.history("total_loss").values()] == [2, 5]


def test_gradients_are_zeroed_before_the_backward_pass_or_the_forward_pass() -> None:
    class ReadsGradient(Model):
        seen: list[bool]

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            self.seen.append(self.weight.grad is None)
            return super().forward(x)

    for before_forward in (False, True):
        model = ReadsGradient()
        model.seen = []
        trainer_of(model=model, zero_grad_before_forward=before_forward).train(0, 2)
        assert model.seen == [True, before_forward]


def test_evaluation_mode_is_noticed() -> None:
    trainer = trainer_of(hooks.CallbackHook(before_step=lambda trainer: trainer.model.eval()))
    with pytest.raises(AssertionError, match="eval mode"):
        trainer.train(0, 1)


def _nan_from_the_third_batch() -> Iterator[Tensor]:
    yield from (torch.ones(3), torch.ones(3))
    yield from batches(math.nan)


def test_a_loss_that_is_not_finite_stops_training() -> None:
    trainer = trainer_of(data=_nan_from_the_third_batch())
    with pytest.raises(FloatingPointError, match=r"iteration[= ]2"):
        trainer.train(0, 10)
    assert trainer.model.weight.isfinite().all()  # it stopped before the update


@lite_only("the exception stays in the thread")
@pytest.mark.parametrize("iterations", [3, 10])
def test_a_loss_that_is_not_finite_stops_training_with_metrics_in_a_thread(iterations: int, tmp_path: Path) -> None:
    model = Model()
    saver = hooks.PeriodicCheckpointer(DetectionCheckpointer(model, str(tmp_path)), 100)
    trainer = trainer_of(saver, model=model, data=_nan_from_the_third_batch(), async_write_metrics=True)
    with pytest.raises(FloatingPointError, match=r"iteration[= ]2"):
        trainer.train(0, iterations)
    assert trainer.iter == min(3, iterations - 1)
    assert not (tmp_path / "model_final.pth").exists()


def test_metrics_in_a_thread() -> None:
    trainer = trainer_of(async_write_metrics=True)
    trainer.train(0, 5)
    assert [iteration for _, iteration in trainer.storage.history("total_loss").values()] == list(range(5))


def test_data_loader_is_iterated_lazily_and_can_be_replaced() -> None:
    events = []

    class Loader:
        def __iter__(self) -> Iterator[Tensor]:
            events.append("iterated")
            return batches()

    trainer = trainer_of(data=Loader())
    assert events == []
    trainer.train(0, 2)
    assert events == ["iterated"]
    trainer.reset_data_loader(Loader)
    trainer.train(2, 3)
    assert events == ["iterated"] * 2


# State


class Counter(HookBase):
    def __init__(self, count: int = 0) -> None:
        self.count = count

    def after_step(self) -> None:
        self.count += 1

    def state_dict(self) -> dict[str, int]:
        return {"count": self.count}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        self.count = state_dict["count"]


def test_state_of_a_trainer(d2_log: pytest.LogCaptureFixture) -> None:
    trainer = trainer_of(Counter(), Log())
    trainer.train(0, 3)
    state = trainer.state_dict()
    assert set(state) == {"iteration", "hooks", "optimizer"}
    assert state["hooks"] == {"Counter": {"count": 3}}

    counter = Counter()
    other = trainer_of(counter)
    other.load_state_dict(state)
    assert other.iter == state["iteration"]
    assert counter.count == 3

    trainer_of().load_state_dict(state)
    assert "Counter" in d2_log.text


@lite_only("only the first hook of a class is saved")
def test_state_of_several_hooks_of_a_class() -> None:
    state = trainer_of(Counter(1), Counter(2)).state_dict()
    counters = Counter(), Counter()
    trainer_of(*counters).load_state_dict(state)
    assert [counter.count for counter in counters] == [1, 2]


# Mixed precision


@lite_only("AMPTrainer needs CUDA")
@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float16])
def test_amp_on_the_cpu(precision: torch.dtype) -> None:
    class Products(Model):
        def forward(self, x: Tensor) -> Tensor:
            self.dtype = (x[None] @ self.weight[:, None]).dtype
            return super().forward(x)["loss_a"]

    model = Products()
    trainer = trainer_of(model=model, cls=AMPTrainer, precision=precision, log_grad_scaler=True)
    trainer.train(0, 2)
    assert model.dtype == precision
    assert model.weight.tolist() == pytest.approx([0.8] * 3, rel=1e-2)
    assert "[metric]grad_scaler" in trainer.storage.latest()
    state = trainer.state_dict()
    assert "grad_scaler" in state
    trainer_of(cls=AMPTrainer).load_state_dict(state)


@lite_only("ignores the argument")
def test_amp_writes_metrics_in_a_thread() -> None:
    assert trainer_of(cls=AMPTrainer, async_write_metrics=True).async_write_metrics


@lite_only("KeyError: grad_scaler")
def test_amp_continues_training_without_amp(d2_log: pytest.LogCaptureFixture) -> None:
    trainer_of(cls=AMPTrainer).load_state_dict(trainer_of().state_dict())
    assert "scaler" in d2_log.text


# Hooks


def test_callbacks_get_the_trainer() -> None:
    seen = []
    names = ("before_train", "after_train", "before_step", "after_step")
    callbacks = {name: lambda trainer, name=name: seen.append((name, trainer.iter)) for name in names}
    trainer_of(hooks.CallbackHook(**callbacks)).train(0, 1)
    assert seen == [("before_train", 0), ("before_step", 0), ("after_step", 0), ("after_train", 1)]


def test_iteration_timer(d2_log: pytest.LogCaptureFixture) -> None:
    trainer = trainer_of(hooks.IterationTimer())
    trainer.train(0, 6)
    assert [iteration for _, iteration in trainer.storage.history("time").values()] == [2, 3, 4, 5]
    assert "Overall training speed: 4 iterations in 0:00:00 (" in d2_log.text
    assert "Total training time: 0:00:00 (0:00:00 on hooks)" in d2_log.text


def test_lr_scheduler_hook() -> None:
    hook = hooks.LRScheduler(scheduler=LinearParamScheduler(1, 0))
    trainer = trainer_of(hook, lr=1.0)
    trainer.train(0, 4)
    assert [value for value, _ in trainer.storage.history("lr").values()] == [1.0, 0.75, 0.5, 0.25]  # as used
    assert trainer.storage.smoothing_hints()["lr"] is False
    assert hook.state_dict() == {"base_lrs": [1.0], "last_epoch": 4}


def test_lr_scheduler_hook_with_a_torch_scheduler() -> None:
    model = Model()
    optimizer = torch.optim.SGD(model.parameters(), 1.0)
    hook = hooks.LRScheduler(optimizer, torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.1))
    trainer = SimpleTrainer(model, batches(), optimizer)
    trainer.register_hooks([hook])
    trainer.train(0, 3)
    assert [value for value, _ in trainer.storage.history("lr").values()] == pytest.approx([1.0, 1.0, 0.1])
    assert "last_epoch" in hook.state_dict()


@pytest.mark.parametrize(
    ("groups", "index"),
    [
        ([(0.1, 1), (0.2, 3), (0.3, 3)], 1),  # the most tensors
        ([(0.1, 1), (0.2, 1), (0.2, 1)], 1),  # the most common rate
    ],
)
def test_which_learning_rate_is_logged(groups: list[tuple[float, int]], index: int) -> None:
    optimizer = torch.optim.SGD(
        [{"lr": lr, "params": [nn.Parameter(torch.zeros(1)) for _ in range(size)]} for lr, size in groups], lr=1.0
    )
    assert hooks.LRScheduler.get_best_param_group_id(optimizer) == index


class Writer(EventWriter):
    def __init__(self) -> None:
        self.calls: list[Any] = []

    def write(self) -> None:
        self.calls.append(get_event_storage().iter)

    def close(self) -> None:
        self.calls.append("closed")


def test_periodic_writer() -> None:
    writer = Writer()
    trainer_of(hooks.PeriodicWriter([writer], period=3)).train(0, 8)
    assert writer.calls == [2, 5, 7, 8, "closed"]
    with pytest.raises((TypeError, AssertionError)):
        hooks.PeriodicWriter(["no writer"])


def test_eval_hook() -> None:
    trainer = trainer_of(hooks.EvalHook(2, lambda: {"bbox": {"AP": 3, "AP-cat": math.nan}, "speed": 1}))
    trainer.train(0, 4)
    assert trainer.storage.history("bbox/AP").values() == [(3.0, 1), (3.0, 4)]  # not twice at the end
    assert set(trainer.storage.latest()) > {"bbox/AP", "bbox/AP-cat", "speed"}
    assert trainer.storage.smoothing_hints()["bbox/AP"] is False

    evaluations: list[int] = []
    trainer_of(hooks.EvalHook(0, lambda: evaluations.append(1), eval_after_train=False)).train(0, 4)
    assert evaluations == []
    with pytest.raises((TypeError, AssertionError), match="dict"):
        trainer_of(hooks.EvalHook(0, lambda: 3)).train(0, 1)
    with pytest.raises(ValueError, match="bbox/AP"):
        trainer_of(hooks.EvalHook(0, lambda: {"bbox": {"AP": "high"}})).train(0, 1)


def _best(
    tmp_path: Path, metrics: dict[int, float], start: int, stop: int, mode: str = "max", state: Any = None
) -> tuple[hooks.BestCheckpointer, list[int], dict[str, Any]]:
    """Train with an evaluation every iteration, whose result at iteration i is metrics[i]; return when it saved."""
    model = Model()
    checkpointer = DetectionCheckpointer(model, str(tmp_path))
    saved: list[int] = []
    save = checkpointer.save
    checkpointer.save = lambda name, **extra: (saved.append(extra["iteration"]), save(name, **extra))
    best = hooks.BestCheckpointer(1, checkpointer, "AP", mode)
    trainer = trainer_of(model=model)
    trainer.register_hooks([hooks.EvalHook(1, lambda: {"AP": metrics[trainer.iter]}), best])
    if state is not None:
        trainer.load_state_dict(state)
    trainer.train(start, stop)
    return best, saved, trainer.state_dict()


def test_best_checkpointer(tmp_path: Path, d2_log: pytest.LogCaptureFixture) -> None:
    metrics = {0: math.nan, 1: 5.0, 2: 3.0, 4: 7.0}
    best, saved, _ = _best(tmp_path, metrics, 0, 4)
    assert (saved, best.best_metric, best.best_iter) == ([1, 4], 7.0, 4)
    assert torch.load(tmp_path / "model_best.pth", weights_only=True)["iteration"] == 4
    _, saved, _ = _best(tmp_path, metrics, 0, 4, mode="min")
    assert saved == [1, 2]
    with pytest.raises((ValueError, AssertionError), match="median"):
        hooks.BestCheckpointer(1, DetectionCheckpointer(Model()), "AP", "median")
    trainer_of(hooks.BestCheckpointer(1, DetectionCheckpointer(Model()), "absent")).train(0, 2)
    assert "absent" in d2_log.text


@lite_only("forgets the best value: the first evaluation after a resume overwrites the best model")
@pytest.mark.parametrize("with_state", [True, False])
def test_best_checkpointer_remembers_over_a_resume(tmp_path: Path, with_state: bool) -> None:
    metrics = {0: 1.0, 1: 9.0, 3: 5.0, 4: 6.0, 6: 10.0}  # the last iteration is evaluated after it, as the next
    _, saved, state = _best(tmp_path, metrics, 0, 3)
    assert saved == [0, 1]
    if with_state:  # by the checkpoint, or else by the record beside the best model
        (tmp_path / "model_best.json").unlink()
        assert state["hooks"]["BestCheckpointer"] == {"best_metric": 9.0, "best_iter": 1}
    best, saved, _ = _best(tmp_path, metrics, 3, 6, state=state if with_state else None)
    assert (saved, best.best_metric) == ([6], 10.0)
    # A new training in the same folder begins anew.
    _, saved, _ = _best(tmp_path, {1: 2.0}, 0, 1)
    assert saved == [1]


def test_torch_profiler(tmp_path: Path) -> None:
    hook = hooks.TorchProfiler(lambda trainer: trainer.iter == 1, str(tmp_path), save_tensorboard=False)
    trainer_of(hook).train(0, 3)
    assert [path.name for path in tmp_path.iterdir()] == ["profiler-trace-iter1.json"]
    assert json.loads((tmp_path / "profiler-trace-iter1.json").read_text())["traceEvents"]


def test_torch_profiler_for_tensorboard(tmp_path: Path) -> None:
    trainer_of(hooks.TorchProfiler(lambda trainer: trainer.iter == 1, str(tmp_path))).train(0, 3)
    assert list((tmp_path / "log" / "profiler-tensorboard-iter1").iterdir())


@lite_only("AttributeError: _save_tensorboard")
def test_autograd_profiler(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        hook = hooks.AutogradProfiler(lambda trainer: trainer.iter == 1, str(tmp_path))
    trainer_of(hook).train(0, 3)
    assert [path.name for path in tmp_path.iterdir()] == ["profiler-trace-iter1.json"]


@pytest.mark.parametrize("available", [False, True])
def test_memory_statistics_are_of_the_gpu(
    available: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: available)
    for name in ("max_memory_reserved", "memory_reserved", "max_memory_allocated", "memory_allocated"):
        monkeypatch.setattr(torch.cuda, name, lambda *_: 7 * 2**20)
    monkeypatch.setattr(torch.cuda, "memory_summary", lambda *_: "summary")
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda *_: None)
    caplog.set_level(logging.INFO, "detectron2.engine.hooks")
    logging.getLogger("detectron2").propagate = True
    trainer_of(hooks.TorchMemoryStats(1, max_runs=2)).train(0, 3)
    assert caplog.text.count("max_reserved_mem: 7MB") == (2 if available else 0)


# Defaults


def test_argument_parser() -> None:
    args = default_argument_parser().parse_args(["--config-file", "c.py", "--num-gpus", "2", "a.b=1", "--c", "d=2"])
    assert (args.config_file, args.num_gpus, args.resume, args.eval_only) == ("c.py", 2, False, False)
    assert (args.num_machines, args.machine_rank) == (1, 0)
    assert args.dist_url.startswith("tcp://127.0.0.1:")
    assert args.opts == ["a.b=1", "--c", "d=2"]
    assert default_argument_parser().parse_args([]).opts == []


@pytest.fixture
def restored_state() -> Iterator[None]:
    """default_setup changes the process."""
    benchmark = torch.backends.cudnn.benchmark
    handlers = {name: list(logging.getLogger(name).handlers) for name in ("detectron2", "fvcore")}
    yield
    torch.backends.cudnn.benchmark = benchmark
    for name, before in handlers.items():
        logging.getLogger(name).handlers[:] = before


@pytest.mark.parametrize("as_namespace", [True, False])
@pytest.mark.usefixtures("restored_state")
def test_setup(tmp_path: Path, as_namespace: bool) -> None:
    output_dir = tmp_path / "out"
    train = {"output_dir": str(output_dir), "seed": 5, "cudnn_benchmark": True, "float32_precision": "high"}
    cfg = OmegaConf.create({"train": train})
    args = {"eval_only": False}
    default_setup(cfg, Namespace(**args) if as_namespace else args)
    first = torch.rand(())
    default_setup(cfg, Namespace(**args))
    assert torch.rand(()) == first
    assert torch.backends.cudnn.benchmark is True
    assert OmegaConf.load(output_dir / "config.yaml") == cfg
    for handler in logging.getLogger("detectron2").handlers:
        handler.stream.flush()
    text = (output_dir / "log.txt").read_text()
    assert "Environment info" in text
    assert "eval_only" in text


@pytest.mark.usefixtures("restored_state")
def test_setup_with_little(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    default_setup(OmegaConf.create({}), Namespace())
    assert not list(tmp_path.iterdir())
    cfg = OmegaConf.create({"train": {"output_dir": str(tmp_path / "out"), "seed": -1}})
    default_setup(cfg, OmegaConf.create({}))
    assert OmegaConf.load(tmp_path / "out" / "config.yaml") == cfg
    first = torch.rand(4)
    default_setup(cfg, OmegaConf.create({}))
    assert not torch.equal(torch.rand(4), first)  # a seed below 0 is another one each time


def test_writers(tmp_path: Path) -> None:
    writers = default_writers(str(tmp_path / "new"), 10)
    assert [type(writer).__name__ for writer in writers] == ["CommonMetricPrinter", "JSONWriter", "TensorboardXWriter"]
    for writer in writers:
        writer.close()
    assert (tmp_path / "new" / "metrics.json").exists()


def test_one_process() -> None:
    model = Model()
    assert create_ddp_model(model) is model
    called = []
    launch(lambda *args: called.append(args), 1, args=(1, 2))
    assert called == [(1, 2)]
