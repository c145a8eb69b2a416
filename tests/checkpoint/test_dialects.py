"""Every published layout: recognised, renamed wholly and one to one to the model of its config, and back."""

from __future__ import annotations

import dataclasses
from functools import cache
from pathlib import Path

import pytest
import torch
from detectron2.config import LazyConfig, instantiate

from detrex.checkpoint import CheckpointError
from detrex.checkpoint.dialects import DIALECTS, detect_dialect, from_ours, our_constants, to_ours
from detrex.checkpoint.dialects.coco_classes import USED_COCO_IDS
from detrex.checkpoint.dialects.rename import Row
from detrex.config.instantiation import meta_device
from tests.checkpoint.layouts import published_state

PROJECTS = Path(__file__).parents[2] / "projects"
DEFORMABLE, HYBRID = PROJECTS / "deformable_detr/configs", PROJECTS / "h_deformable_detr/configs"
PLAIN = DEFORMABLE / "deformable_detr_r50_50ep.py"
REFINE = DEFORMABLE / "deformable_detr_r50_with_box_refinement_50ep.py"
TWO_STAGE = DEFORMABLE / "deformable_detr_r50_two_stage_50ep.py"
DIALECT = {dialect.name: dialect for dialect in DIALECTS}

# source, variant, dialect, config
LAYOUTS = [
    ("dd", "multi_scale", "official", PLAIN),
    ("dd", "box_refine", "official", REFINE),
    ("dd", "two_stage", "official", TWO_STAGE),
    ("dd", "single_scale", "official", DEFORMABLE / "deformable_detr_r50_single_scale_50ep.py"),
    ("dd", "single_scale_dc5", "official", DEFORMABLE / "deformable_detr_r50_single_scale_dc5_50ep.py"),
    ("hdetr", "r50_300", "official", HYBRID / "h_deformable_detr_r50_two_stage_12ep.py"),
    ("hdetr", "swin_t_300", "official", HYBRID / "h_deformable_detr_swin_tiny_two_stage_12ep.py"),
    ("hdetr", "r50_abl_plain", "official", HYBRID / "deformable_detr_baseline_r50_two_stage_12ep.py"),
    ("detrex", "multi_scale", "detrex zoo", PLAIN),
    ("detrex", "box_refine", "detrex zoo", REFINE),
    ("detrex", "two_stage", "detrex zoo", TWO_STAGE),
    ("mmdet2", "multi_scale", "MMDetection 2", PLAIN),
    ("mmdet2", "box_refine", "MMDetection 2", REFINE),
    ("mmdet2", "two_stage", "MMDetection 2", TWO_STAGE),
    ("mmdet", "multi_scale", "MMDetection 3", PLAIN),
    ("mmdet", "box_refine", "MMDetection 3", REFINE),
    ("mmdet", "two_stage", "MMDetection 3", TWO_STAGE),
    ("hf", "multi_scale", "Hugging Face", PLAIN),
    ("hf", "multi_scale__safetensors", "Hugging Face", PLAIN),
    ("hf", "single_scale", "Hugging Face", DEFORMABLE / "deformable_detr_r50_single_scale_50ep.py"),
    ("hf", "single_scale__safetensors", "Hugging Face", DEFORMABLE / "deformable_detr_r50_single_scale_50ep.py"),
]


@cache
def model_shapes(config: Path) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the model of a config, which is built without memory."""
    with meta_device():
        model = instantiate(LazyConfig.load(str(config)).model)
    return {name: tuple(value.shape) for name, value in model.state_dict().items()}


def layouts(function):
    return pytest.mark.parametrize(("source", "variant", "dialect", "config"), LAYOUTS)(function)


@layouts
def test_total_and_one_to_one(source, variant, dialect, config):
    state = published_state(source, variant)
    found = detect_dialect(state)
    assert found.name == dialect
    result = to_ours(found, state, num_classes=80)
    assert {name: tuple(value.shape) for name, value in result.state.items()} == model_shapes(config)
    used = [name for names in result.source.values() for name in names]
    assert len(used) == len(set(used))
    assert {*used, *result.dropped, *result.aliases} == set(state)


@layouts
def test_round_trip(source, variant, dialect, config):
    state = published_state(source, variant)
    found = detect_dialect(state)
    ours = to_ours(found, state)
    back = from_ours(found, ours.state, our_constants(ours.state))
    # All names again, the repetitions too, and those that the file implied: heads that layers share, biases of zero.
    assert set(state) - set(ours.dropped) <= set(back.state)
    assert len(back.state) == len(state) - len(ours.dropped) + len(ours.added)
    assert set(back.aliases) == set(ours.aliases)
    assert all(torch.equal(back.state[name], state[name]) for name in set(state) & set(back.state))


def test_classifiers_of_80_classes_spread_over_the_91_ids():
    state = published_state("dd", "two_stage")
    official = detect_dialect(state)
    ids = torch.arange(91.0)[:, None].expand(91, 256)
    theirs = {name: ids if name.endswith("class_embed.2.weight") else value for name, value in state.items()}
    ours = to_ours(official, theirs, num_classes=80).state
    back = from_ours(official, ours, our_constants(ours), num_classes=91)
    assert {n: v.shape for n, v in back.state.items()} == {n: v.shape for n, v in state.items()}
    used, unused = list(USED_COCO_IDS), [i for i in range(91) if i not in USED_COCO_IDS]
    weight, bias = back.state["class_embed.2.weight"], back.state["class_embed.2.bias"]
    assert weight[used, 0].tolist() == used
    assert not weight[unused].any()
    assert bias[unused].sigmoid().max() < 1e-30
    assert torch.equal(bias[used], theirs["class_embed.2.bias"][used])
    proposals = back.state["transformer.decoder.class_embed.6.bias"]
    assert (proposals[:80] > 0).all()
    assert (proposals[80:] == bias[0]).all()
    # and back once more, without a loss
    again = to_ours(official, back.state, num_classes=80).state
    assert all(torch.equal(value, ours[name]) for name, value in again.items())


def test_a_model_without_counterpart_is_an_error():
    state = published_state("hdetr", "swin_t_300")
    ours = to_ours(detect_dialect(state), state).state
    with pytest.raises(CheckpointError, match=r"Hugging Face: no rule makes 188 tensors: .*backbone.* no counterpart"):
        from_ours(DIALECT["Hugging Face"], ours, our_constants(ours))


def test_the_official_two_stage_file():
    """Its counts, and what becomes of its 91 classes, as known from the published file."""
    state = published_state("dd", "two_stage")
    for name in ("class_embed.0.weight", "class_embed.6.weight"):
        state[name] = torch.arange(91.0)[:, None].expand(91, 256)
        state[f"transformer.decoder.{name}"] = state[name]
    result = to_ours(detect_dialect(state), state, num_classes=80)
    assert (len(state), len(result.aliases)) == (630, 56)
    assert len(USED_COCO_IDS) == 80
    # Decoder heads: the rows of the 80 category ids. Proposals: the first 80, since row 0 is objectness.
    decoder = result.state["transformer.decoder.heads.0.class_embed.weight"][:, 0]
    proposals = result.state["transformer.queries.proposals.head.class_embed.weight"][:, 0]
    assert decoder.tolist() == list(USED_COCO_IDS)
    assert decoder[[0, 11, 79]].tolist() == [1, 13, 90]  # person, stop sign, toothbrush
    assert proposals.tolist() == list(range(80))
    assert set(result.classes.values()) == {"gather 80 of 91", "slice 80 of 91"}
    # A model with 91 classes gets them all.
    assert len(to_ours(detect_dialect(state), state).state["transformer.decoder.heads.0.class_embed.weight"]) == 91


def test_official_norms_are_not_in_the_order_of_their_use():
    state = published_state("dd", "multi_scale")
    ours = to_ours(detect_dialect(state), state).state
    theirs = "transformer.decoder.layers.3."
    for n, name in ((1, "cross_attn_norm"), (2, "self_attn_norm"), (3, "ffn_norm")):
        assert torch.equal(ours[f"{theirs}{name}.weight"], state[f"{theirs}norm{n}.weight"])


def test_query_key_value_are_concatenated_in_this_order():
    state = published_state("hf", "multi_scale")
    ours = to_ours(detect_dialect(state), state).state
    parts = [state[f"model.decoder.layers.2.self_attn.{x}_proj.weight"] for x in "qkv"]
    assert torch.equal(ours["transformer.decoder.layers.2.self_attn.in_proj_weight"], torch.cat(parts))


def test_a_head_that_is_listed_once_is_that_of_every_layer():
    state = published_state("hf", "multi_scale__safetensors")
    assert not any(name.startswith("class_embed.1") for name in state)
    ours = to_ours(detect_dialect(state), state).state
    result = to_ours(detect_dialect(state), state)
    assert len(result.added) == 5 * 8
    for i in range(6):
        assert torch.equal(ours[f"transformer.decoder.heads.{i}.class_embed.bias"], state["class_embed.0.bias"])


def two_stage() -> dict[str, torch.Tensor]:
    return published_state("dd", "two_stage")


def convert(state: dict[str, torch.Tensor]):
    return to_ours(detect_dialect(two_stage()), state)


def test_a_name_without_a_rule_is_an_error():
    with pytest.raises(CheckpointError, match=r"no rule for 2 tensors: transformer\.extra, mask_head\.weight"):
        convert(two_stage() | {"transformer.extra": torch.zeros(1), "mask_head.weight": torch.zeros(1)})


def test_an_alias_that_differs_is_an_error():
    name = "transformer.decoder.bbox_embed.2.layers.0.bias"
    message = f"{name} should repeat bbox_embed.2.layers.0.bias, but differs from it".replace(".", r"\.")
    with pytest.raises(CheckpointError, match=message):
        convert(two_stage() | {name: torch.zeros(256)})


def test_a_missing_part_is_an_error():
    state = published_state("hf", "multi_scale")
    del state["model.decoder.layers.4.self_attn.k_proj.bias"]
    with pytest.raises(CheckpointError, match=r"layers\.4\.self_attn\.in_proj_bias is made of 3 tensors.* has 2"):
        to_ours(detect_dialect(state), state)


def test_two_tensors_for_one_name_are_an_error():
    state = published_state("hf", "multi_scale")
    dialect = detect_dialect(state)
    double = dataclasses.replace(dialect, rows=(*dialect.rows, Row("level_embed", "transformer.level_embeds")))
    with pytest.raises(CheckpointError, match=r"both .* are transformer\.level_embeds"):
        to_ours(double, state | {"level_embed": torch.zeros(4, 256)})


def test_our_own_names_are_no_dialect():
    assert detect_dialect(dict.fromkeys(model_shapes(TWO_STAGE), torch.zeros(1))) is None
