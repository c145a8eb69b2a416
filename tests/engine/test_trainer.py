"""One training step."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch
from detectron2.utils.events import EventStorage
from torch import Tensor, nn

from detrex.checkpoint import CheckpointError
from detrex.engine import Trainer

CPU = torch.device("cpu")


class Model(nn.Module):
    """Three losses of one weight vector; ``spoil`` changes them."""

    def __init__(self, spoil: Callable[[int, dict[str, Tensor]], dict[str, Tensor]] | None = None):
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.spoil = spoil
        self.register_buffer("step", torch.tensor(-1))
        self.dtypes = []

    def forward(self, data: list[dict]) -> dict[str, Tensor]:
        self.step += 1
        out = self.linear(torch.stack([x["x"] for x in data]))
        self.dtypes.append(out.dtype)
        losses = {f"loss_{i}": (i + 1) * out.float()[:, i].square().mean() for i in range(3)}
        return self.spoil(int(self.step), losses) if self.spoil else losses


def data(batch: int = 2):
    generator = torch.Generator().manual_seed(0)
    for i in itertools.count():
        yield [{"x": torch.randn(4, generator=generator), "file_name": f"{i}_{k}.jpg"} for k in range(batch)]


def make_trainer(model: nn.Module, *, lr: float = 0.1, **kwargs) -> Trainer:
    return Trainer(model, data(), torch.optim.SGD(model.parameters(), lr=lr), device=CPU, **kwargs)


def run(trainer: Trainer, steps: int) -> EventStorage:
    trainer.train(0, steps)
    return trainer.storage


def reference_weights(steps: int, max_norm: float | None = None) -> Tensor:
    torch.manual_seed(0)
    model = Model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for batch in itertools.islice(data(), steps):
        optimizer.zero_grad()
        sum(model(batch).values()).backward()
        if max_norm is not None:
            nn.utils.clip_grad_norm_(model.parameters(), max_norm)
        optimizer.step()
    return model.linear.weight


@pytest.mark.parametrize("max_norm", [None, 0.05])
def test_minimises_the_plain_sum_of_the_losses(max_norm):
    torch.manual_seed(0)
    model = Model()
    run(make_trainer(model, clip_grad=None if max_norm is None else {"max_norm": max_norm, "norm_type": 2}), 5)
    assert torch.equal(model.linear.weight, reference_weights(5, max_norm))


@pytest.mark.parametrize("log_period", [1, 3, 100])
def test_every_iteration_is_recorded_whenever_metrics_are_written(log_period):
    storage = run(make_trainer(Model(), log_period=log_period, clip_grad={"max_norm": 1.0}), 7)
    for name in ("total_loss", "loss_0", "loss_1", "loss_2", "grad_norm", "data_time", "backward_time"):
        values = storage.history(name).values()
        assert [iteration for _, iteration in values] == list(range(7)), name
        assert all(value > 0 for value, _ in values), name
    parts = [storage.history(f"loss_{i}").values()[3][0] for i in range(3)]
    assert storage.history("total_loss").values()[3][0] == pytest.approx(sum(parts), rel=1e-6)


def test_recorded_norm_is_the_norm_before_clipping():
    norms = [
        run(make_trainer(seeded(), clip_grad={"max_norm": m}), 1).history("grad_norm").latest() for m in (1e-3, 1e3)
    ]
    assert norms[0] == norms[1] > 1e-3


def seeded() -> Model:
    torch.manual_seed(0)
    return Model()


@pytest.mark.parametrize("log_period", [1, 100])
def test_a_loss_that_is_not_finite_stops_before_the_weights_change(log_period, tmp_path):
    def spoil(step, losses):
        return losses if step < 3 else losses | {"loss_1": losses["loss_1"] * float("inf")}

    torch.manual_seed(0)
    model = Model(spoil)
    with pytest.raises(FloatingPointError) as error:
        run(make_trainer(model, log_period=log_period, output_dir=str(tmp_path)), 10)
    message = str(error.value)
    assert "not finite at iteration 3: total_loss, loss_1;" in message
    assert "loss_1=inf" in message
    assert "loss_0=" in message
    assert "3_0.jpg, 3_1.jpg" in message
    assert torch.equal(model.linear.weight, reference_weights(3))


class BadGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        return grad * float("nan")


def test_a_gradient_that_is_not_finite_stops_before_the_weights_change(tmp_path):
    """The loss of the step is still finite."""

    def spoil(step, losses):
        return losses if step != 2 else losses | {"loss_0": BadGradient.apply(losses["loss_0"])}

    torch.manual_seed(0)
    model = Model(spoil)
    trainer = make_trainer(model, clip_grad={"max_norm": 0.05}, output_dir=str(tmp_path))
    with pytest.raises(FloatingPointError, match="gradient is not finite at iteration 2: grad_norm"):
        run(trainer, 10)
    assert torch.equal(model.linear.weight, reference_weights(2, 0.05))


def test_a_model_without_losses_is_an_error():
    with pytest.raises(TypeError, match="must return a dict of losses"):
        run(make_trainer(Model(lambda step, losses: {})), 1)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_mixed_precision_covers_the_forward_pass_and_trains(dtype):
    torch.manual_seed(0)
    model = Model()
    storage = run(make_trainer(model, amp_dtype=dtype, clip_grad={"max_norm": 1.0}), 20)
    assert set(model.dtypes) == {getattr(torch, dtype)}
    assert model.linear.weight.dtype == torch.float32
    losses = [value for value, _ in storage.history("total_loss").values()]
    assert sum(losses[-5:]) < 0.7 * sum(losses[:5])


def test_state_round_trips_across_precisions():
    half = make_trainer(Model(), amp_dtype="float16")
    run(half, 3)
    state = half.state_dict()
    assert state["grad_scaler"]["scale"] > 0
    other = make_trainer(Model(), amp_dtype="float16")
    other.load_state_dict(state)
    assert other.scaler.get_scale() == half.scaler.get_scale()
    assert other.iter == half.iter - 1  # the last step; after the loop, iter counts one more
    full = make_trainer(Model())
    full.load_state_dict(state)  # resumes in float32
    assert "grad_scaler" not in full.state_dict()
    other.load_state_dict(full.state_dict())  # and back


def resume(model: nn.Module, state: dict) -> None:
    trainer = make_trainer(model)
    trainer.load_state_dict(state)
    trainer.train(trainer.iter + 1, 2)


def test_a_resumed_run_says_when_other_layers_compute(caplog):
    trainer = make_trainer(Model())
    run(trainer, 1)
    state = trainer.state_dict()
    resume(Model(), state)
    assert "Other layers compute" not in caplog.text
    other = Model()
    other.more = nn.Identity()
    resume(other, state)
    assert "Other layers compute than when the run was saved" in caplog.text


def test_a_resumed_run_trains_what_it_trained(caplog):
    trainer = make_trainer(Model())
    run(trainer, 1)
    frozen = Model()
    frozen.linear.bias.requires_grad_(False)
    with pytest.raises(CheckpointError, match=r"differ in linear\.bias: resume it with its own train\.freeze"):
        make_trainer(frozen).load_state_dict(trainer.state_dict())
