"""Classifiers follow class names, not positions."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from detrex.checkpoint import CheckpointError, map_class_rows
from tests.parity.pairs import ours

NAMES = ("cat", "dog", "bird", "fish", "horse")


class Head(nn.Module):
    """A classifier under our name, and a weight that has nothing to do with classes."""

    def __init__(self, rows: int):
        super().__init__()
        self.class_embed = nn.Linear(3, rows)
        self.bbox_embed = nn.Linear(3, rows)


@settings(max_examples=50, deadline=None)
@given(
    old=st.lists(st.sampled_from(NAMES), unique=True, min_size=1),
    new=st.lists(st.sampled_from(NAMES), unique=True, min_size=1),
)
def test_each_class_keeps_its_row_and_a_new_class_starts_anew(old, new):
    file, model = Head(len(old)).state_dict(), Head(len(new))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    mapped = map_class_rows(file, model, old, new)
    assert mapped.keys() == file.keys()
    for name in ("class_embed.weight", "class_embed.bias"):
        assert mapped[name].shape == before[name].shape
        for row, label in enumerate(new):
            expected = file[name][old.index(label)] if label in old else before[name][row]
            assert torch.equal(mapped[name][row], expected)
    assert mapped["bbox_embed.weight"] is file["bbox_embed.weight"]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_every_classifier_of_a_two_stage_detector_but_objectness():
    """The class head of the proposals says in row 0 whether there is an object: it belongs to no class."""
    torch.manual_seed(0)
    file, model = ours("two_stage", full=False).state_dict(), ours("two_stage", full=False)
    old = [f"class {i}" for i in range(len(file["transformer.decoder.heads.0.class_embed.bias"]))]
    new = old[::-1]
    mapped, initial = map_class_rows(file, model, old, new), model.state_dict()
    changed = {name for name in file if not torch.equal(mapped[name], file[name])}
    proposals = "transformer.queries.proposals.head.class_embed"
    heads = {name for name in file if "decoder.heads" in name and name.endswith("class_embed.weight")}
    assert len(heads) > 1
    assert heads <= changed
    for name in heads:
        assert torch.equal(mapped[name], file[name].flip(0))
    for name in (f"{proposals}.weight", f"{proposals}.bias"):
        assert torch.equal(mapped[name][0], file[name][0])
        assert torch.equal(mapped[name][1:], initial[name][1:])


def test_a_name_that_occurs_twice_is_no_class_to_follow():
    file, model = Head(2).state_dict(), Head(1)
    mapped = map_class_rows(file, model, ["cat", "cat"], ["cat"])
    assert torch.equal(mapped["class_embed.weight"], model.class_embed.weight)


def test_names_that_do_not_fit_the_rows():
    with pytest.raises(CheckpointError, match=r"class_embed\.weight: \[3, 3\] in the file .*2 class names of the file"):
        map_class_rows(Head(3).state_dict(), Head(2), ["cat", "dog"], ["dog", "cat"])
