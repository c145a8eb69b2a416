"""The checkpointer loads a file of any dialect without a separate step."""

from __future__ import annotations

import argparse
import logging

import pytest
import torch

from detrex.checkpoint import Checkpointer, CheckpointError
from detrex.checkpoint.dialects import DIALECTS, from_ours, our_constants
from tests.parity.pairs import ours
from tests.tiny import randomize

FOREIGN = [(dialect, variant) for dialect in DIALECTS for variant in ("plain", "refine", "two_stage")]


def random_model(variant: str, seed: int):
    torch.manual_seed(seed)
    model = ours(variant, full=False)
    randomize(model)
    return model


def foreign_file(dialect, variant: str, path) -> tuple[torch.nn.Module, str]:
    """A model, and its weights in a dialect's layout, as the official training script saves them."""
    model = random_model(variant, seed=0)
    if dialect.unbiased:
        with torch.no_grad():
            for conv in [*model.neck.convs, *model.neck.extra_convs]:
                conv.conv.bias.zero_()
    state = model.state_dict()
    renamed = from_ours(dialect, state, our_constants(state)).state
    torch.save({"model": renamed, "epoch": 49, "args": argparse.Namespace(lr=2e-4)}, path)
    return model, str(path)


@pytest.mark.parametrize(("dialect", "variant"), FOREIGN, ids=lambda x: getattr(x, "name", x))
def test_every_tensor_arrives(dialect, variant, tmp_path, caplog):
    model, path = foreign_file(dialect, variant, tmp_path / "official.pth")
    other = random_model(variant, seed=1)
    assert not torch.equal(other.transformer.level_embeds, model.transformer.level_embeds)
    with caplog.at_level(logging.INFO):
        rest = Checkpointer(other).load(path)
    assert rest["epoch"] == 49
    assert f"in the dialect {dialect.name!r}" in caplog.text
    expected = model.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in other.state_dict().items())


def test_a_tensor_without_a_rule(tmp_path, caplog):
    official = DIALECTS[0]
    model, path = foreign_file(official, "refine", tmp_path / "official.pth")
    data = torch.load(path, weights_only=False)
    data["model"]["mask_head.weight"] = torch.zeros(3)
    torch.save(data, path)
    with pytest.raises(CheckpointError, match=r"official\.pth: official: no rule for 1 tensors: mask_head\.weight"):
        Checkpointer(random_model("refine", seed=1)).load(path)
    other = random_model("refine", seed=1)
    with caplog.at_level(logging.INFO):
        Checkpointer(other, strict=False).load(path)
    assert "1 have no rule and were left out: mask_head.weight" in caplog.text
    assert torch.equal(other.transformer.level_embeds, model.transformer.level_embeds)
