"""Checkpoints as other programs wrap them load: compiled, parallel, Lightning's, averaged weights."""

from __future__ import annotations

import logging

import pytest
import torch
from torch import Tensor, nn

from detrex.checkpoint import Checkpointer, CheckpointError, read_checkpoint
from tests.parity.pairs import ours
from tests.tiny import randomize


def state_of(seed: int) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    model = ours("refine", full=False)
    randomize(model)
    return model.state_dict()


RAW, EMA = state_of(1), state_of(2)


def under(prefix: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + name: value for name, value in state.items()}


COMPILED_PART = {name.replace("backbone.", "backbone._orig_mod.", 1): value for name, value in RAW.items()}
LIGHTNING = {"epoch": 3, "global_step": 9, "pytorch-lightning_version": "2.4", "hyper_parameters": {"lr": 1e-4}}
# What a file holds, and the weights in it that count.
FILES = {
    "compiled": ({"model": under("_orig_mod.", RAW)}, RAW),
    "compiled and parallel": ({"model": under("module._orig_mod.", RAW)}, RAW),
    "parallel and compiled": ({"model": under("_orig_mod.module.", RAW)}, RAW),
    "a compiled backbone": ({"model": COMPILED_PART}, RAW),
    "FSDP": ({"model": under("_fsdp_wrapped_module.", RAW)}, RAW),
    "Lightning": ({"state_dict": under("model.", RAW), **LIGHTNING}, RAW),
    "Lightning, compiled": ({"state_dict": under("model._orig_mod.", RAW), **LIGHTNING}, RAW),
    "Lightning, another attribute": ({"state_dict": under("net.", RAW), **LIGHTNING}, RAW),
    "Lightning with an average": ({"state_dict": under("model.", RAW) | under("ema_model.module.", EMA)}, RAW),
    "bare, averaged": (under("ema.", EMA), EMA),
    "bare, averaged and parallel": (under("model_ema.module.", EMA), EMA),
    "averaged by torch": ({"model": under("module.", EMA) | {"n_averaged": torch.tensor(7)}}, EMA),
    "timm": ({"state_dict": RAW, "state_dict_ema": EMA, "epoch": 3}, RAW),
    "averaged alone": ({"model_ema": under("module.", EMA), "epoch": 3}, EMA),
    "averaged with a counter": ({"ema": {"module": EMA, "updates": 12}}, EMA),
    "weights and average": ({"model": RAW, "ema": {"module": EMA, "updates": 12}}, RAW),
    "MMDetection 3": ({"state_dict": EMA, "ema_state_dict": under("module.", RAW) | {"steps": torch.tensor(9)}}, EMA),
}


def load(path: str) -> dict[str, Tensor]:
    model = ours("refine", full=False)
    checkpointer = Checkpointer(model)
    checkpointer.load(path, checkpointables=[])
    assert checkpointer.report.complete
    return model.state_dict()


def assert_equal(actual: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert all(torch.equal(value, expected[name]) for name, value in actual.items())


@pytest.mark.parametrize("label", FILES)
def test_the_weights_that_count_are_loaded(label, tmp_path):
    content, expected = FILES[label]
    torch.save(content, tmp_path / "a.pth")
    assert_equal(load(str(tmp_path / "a.pth")), expected)


@pytest.mark.parametrize("label", ["timm", "weights and average", "MMDetection 3", "Lightning with an average"])
@pytest.mark.parametrize(("choice", "expected"), [("raw", RAW), ("ema", EMA)])
def test_a_question_mark_chooses_between_weights_and_average(label, choice, expected, tmp_path):
    torch.save(FILES[label][0], tmp_path / "a.pth")
    assert_equal(load(f"{tmp_path}/a.pth?{choice}"), expected)


def test_the_log_says_which_were_taken(tmp_path, caplog):
    torch.save(FILES["timm"][0], tmp_path / "a.pth")
    with caplog.at_level(logging.INFO):
        load(f"{tmp_path}/a.pth")
        assert "the averaged (EMA) weights in it are left aside; ?ema after the path takes them" in caplog.text
        load(f"{tmp_path}/a.pth?ema")
        assert "averaged (EMA) weights, of state_dict_ema" in caplog.text
    torch.save({"model": RAW}, tmp_path / "b.pth")
    with pytest.raises(CheckpointError, match=r"b\.pth holds no ema weights"):
        read_checkpoint(f"{tmp_path}/b.pth?ema")


def test_what_is_left_over_is_reported_as_ever(tmp_path):
    torch.save({"state_dict": under("model.", RAW) | {"criterion.weight": torch.ones(3)}}, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=r"1 not in the model: criterion\.weight"):
        load(str(tmp_path / "a.pth"))
    torch.save({"model": RAW | under("_orig_mod.", RAW)}, tmp_path / "b.pth")
    with pytest.raises(CheckpointError, match="twice, with and without what wraps modules"):
        load(str(tmp_path / "b.pth"))


def test_a_model_whose_own_names_look_like_a_wrapper(tmp_path):
    model = nn.ModuleDict({"model": nn.Linear(2, 2), "ema": nn.Linear(2, 2)})
    Checkpointer(model, str(tmp_path)).save_weights("own")
    checkpointer = Checkpointer(model)
    checkpointer.load(str(tmp_path / "own.pth"))
    assert len(checkpointer.report.loaded) == 4
