"""FSDP2 in two processes: the updates of one process with the whole batch, and the same checkpoints."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import SwinTransformer
from processes import run_job
from tiny import EMBED_DIM, NUM_LEVELS, image_input, randomize, tiny_detector
from torch.distributed.tensor import DTensor

from detrex.checkpoint import Checkpointer
from detrex.config import get_config
from detrex.distributed.parallel import shard, whole_copy
from detrex.engine.trainer import Trainer
from detrex.modeling.neck import ChannelMapper

UNITS = get_config("common/train.py").train.fsdp.units
INPUTS = [image_input(64, 96, boxes=count, seed=i) for i, count in enumerate((0, 3, 7, 1))]


def detector(seed: int):
    model = tiny_detector("two_stage", seed=seed)
    model.backbone = SwinTransformer(
        embed_dim=8, depths=(2, 2), num_heads=(2, 2), window_size=4, drop_path_rate=0.0, out_indices=(0, 1)
    )
    shapes = {"p0": ShapeSpec(channels=8), "p1": ShapeSpec(channels=16)}
    model.neck = ChannelMapper(
        input_shapes=shapes, in_features=list(shapes), out_channels=EMBED_DIM, num_outs=NUM_LEVELS
    )
    randomize(model.backbone)
    randomize(model.neck)
    return model.train()


def trainer_of(model, inputs: list[dict]) -> Trainer:
    # eps above the smallest gradients, whose rounding the update would magnify otherwise.
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, eps=1e-3)
    clip = {"max_norm": 0.1, "norm_type": 2}
    return Trainer(model, [inputs], optimizer, device=torch.device("cpu"), clip_grad=clip)


def steps(trainer: Trainer, inputs: list[dict], count: int) -> list[float]:
    """Norms of the gradients before they are clipped."""
    norms = []
    for _ in range(count):
        trainer.optimizer.zero_grad()
        sum(trainer.model(inputs).values()).backward()
        norms.append(float(trainer._clip()))
        trainer.optimizer.step()
    return norms


def train_and_save(rank: int, world: int, folder: Path) -> None:
    inputs = INPUTS[rank * 2 : rank * 2 + 2]
    model = shard(detector(seed=rank), UNITS, device=torch.device("cpu"))  # the weights of rank 0 count
    assert all(isinstance(p, DTensor) for p in model.parameters())
    trainer = trainer_of(model, inputs)
    trainer.iter = 1
    norms = steps(trainer, inputs, 2)
    checkpointer = Checkpointer(model, str(folder), trainer=trainer)
    checkpointer.save("model_0000001")
    evaluated = whole_copy(model, lambda: detector(seed=5))
    assert not any(isinstance(p, DTensor) for p in evaluated.parameters())

    again = shard(detector(seed=7), UNITS, device=torch.device("cpu"))
    resumed = trainer_of(again, inputs)
    for name in ("model_0000001", "of_one"):  # the second is of a run in one process
        Checkpointer(again, str(folder), trainer=resumed).load(str(folder / f"{name}.pth"))
        norms += steps(resumed, inputs, 1)
    Checkpointer(again, str(folder), trainer=resumed).save("again")
    if rank == 0:
        torch.save({"norms": norms, "evaluated": evaluated.state_dict()}, folder / "results.pth")


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> tuple[Path, list[float], Trainer]:
    """A folder of what both have written, and of one process with all images its norms and trainer."""
    folder = tmp_path_factory.mktemp("fsdp")
    trainer = trainer_of(detector(seed=0), INPUTS)
    trainer.iter = 1
    norms = steps(trainer, INPUTS, 2)
    Checkpointer(trainer.model, str(folder), trainer=trainer).save("of_one")
    run_job(train_and_save, 2, folder, folder=folder)
    return folder, norms + steps(trainer, INPUTS, 1), trainer


def load(folder: Path, name: str):
    return torch.load(folder / f"{name}.pth", weights_only=True)


def test_updates_are_those_of_one_process(saved):
    folder, norms, _ = saved
    results = load(folder, "results")
    assert results["norms"] == pytest.approx([*norms, norms[-1]], rel=1e-4)
    one, two = load(folder, "of_one"), load(folder, "model_0000001")
    torch.testing.assert_close(two["model"], one["model"], rtol=1e-4, atol=2e-5)
    torch.testing.assert_close(results["evaluated"], two["model"], rtol=0, atol=0)


def test_checkpoints_have_the_same_form(saved):
    folder, _, _ = saved
    one, two = load(folder, "of_one"), load(folder, "model_0000001")
    assert one.keys() == two.keys()
    assert list(one["model"]) == list(two["model"])
    assert one["trainer"]["layers"] == two["trainer"]["layers"]
    a, b = (x["trainer"]["optimizer"] for x in (one, two))
    assert a["param_groups"] == b["param_groups"]
    assert a["state"].keys() == b["state"].keys()
    for key, state in a["state"].items():
        assert {k: v.shape for k, v in state.items()} == {k: v.shape for k, v in b["state"][key].items()}


def test_one_process_goes_on_from_a_sharded_run(saved):
    folder, norms, _ = saved
    model = detector(seed=9)
    trainer = trainer_of(model, INPUTS)
    Checkpointer(model, str(folder), trainer=trainer).load(str(folder / "model_0000001.pth"))
    assert steps(trainer, INPUTS, 1) == pytest.approx(norms[-1:], rel=1e-4)
    torch.testing.assert_close(model.state_dict(), load(folder, "again")["model"], rtol=1e-4, atol=2e-5)
