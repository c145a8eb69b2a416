"""Everything that the original repositories published has a config or a row here: their names and results as data."""

from __future__ import annotations

import re
from collections import defaultdict
from functools import cache
from pathlib import Path

import pytest
from omegaconf import DictConfig

from detrex.cli import zoo
from detrex.config import apply_overrides, load_config

ROOT, DATA = Path(__file__).parents[2], Path(__file__).parent / "data"


def lines(name: str) -> list[str]:
    return [line for line in (DATA / name).read_text().splitlines() if not line.startswith("#")]


NAMED = [line.split() for line in lines("published_configs.txt")]
SCRIPTS = [words[1:] for words in NAMED if words[0] == "H-Deformable-DETR" and words[1].startswith("two_stage")]
DROPS = {12: 11, 24: 20, 36: 30, 50: 40}
# Backbone in a script's name -> stages' depths or, for a ResNet, its depth; where it starts from.
BACKBONES = {
    "r50": (50, "R-50.pkl"),
    "r101": (101, "R-101.pkl"),
    "swin_tiny": ([2, 2, 6, 2], "swin_tiny_patch4_window7_224.pth"),
    "swin_small": ([2, 2, 18, 2], "swin_small_patch4_window7_224.pth"),
    "swin_small_22k": ([2, 2, 18, 2], "swin_small_patch4_window7_224_22k.pth"),
    "swin_large": ([2, 2, 18, 2], "swin_large_patch4_window7_224_22k.pth"),
}


@cache
def load(ours: str, *overrides: str) -> DictConfig:
    project, name = ours.split("/")
    return apply_overrides(load_config(ROOT / f"projects/{project}/configs/{name}.py"), list(overrides))


def test_all_names_are_listed():
    assert {source: sum(words[0] == source for words in NAMED) for source in {words[0] for words in NAMED}} == {
        "Deformable-DETR": 5,
        "detrex": 3 + 9,
        "H-Deformable-DETR": 4 + 56,
    }
    assert len({(words[0], words[1]) for words in NAMED}) == len(NAMED)
    # One description for each name: no two of them are the same here, but the one-stage ones of both repositories.
    descriptions = [tuple(words[2:]) for words in NAMED if words[0] == "H-Deformable-DETR"]
    assert len(set(descriptions)) == len(descriptions)


@pytest.mark.parametrize("words", [w for w in NAMED if w[0] != "H-Deformable-DETR"], ids=lambda w: f"{w[0]}-{w[1]}")
def test_a_named_config_is_here(words):
    source, theirs, ours = words
    cfg = load(ours)
    if source == "detrex":
        assert theirs == f"{ours}.py"  # under the same name
        return
    two_stage = "two_stage" in theirs
    assert hasattr(cfg.model.transformer.queries, "content") == two_stage
    refines = "NoRefinement" not in str(cfg.model.transformer.decoder.refinement._target_)
    assert refines == ("refinement" in theirs)
    assert (cfg.model.transformer.num_feature_levels == 1) == ("single_scale" in theirs)
    assert cfg.model.num_select == 100


@pytest.mark.parametrize("words", SCRIPTS, ids=lambda w: "-".join(w[0].split("/")[2:]))
def test_a_script_of_h_detr_is_what_its_name_says(words):
    theirs, ours, *overrides = words
    cfg = load(ours, *overrides)
    epochs, script = int(re.search(r"/(\d+)eps/", theirs)[1]), theirs.rsplit("/", 1)[1]
    assert cfg.train.max_iter == f"{epochs}ep"
    scheduler = cfg.lr_multiplier.scheduler
    assert (scheduler.num_updates, list(scheduler.milestones)) == (epochs, [DROPS[epochs]])
    assert cfg.optimizer.weight_decay == (0.05 if "decay0.05" in script else 1e-4)

    transformer, criterion = cfg.model.transformer, cfg.model.criterion
    assert transformer.encoder.feedforward_dim == 2048
    assert transformer.encoder.dropout == (0.0 if "_dp0_" in script else 0.1)
    assert transformer.queries.content == ("learned" if "_mqs_" in script else "proposal")
    forward_twice = "LookForwardTwice" in str(transformer.decoder.refinement._target_)
    assert forward_twice == ("_lft_" in script)

    queries = re.search(r"_n(\d+)_", script)
    assert transformer.queries.groups.one2one == (int(queries[1]) if queries else 300)
    hybrid = re.search(r"lambda([\d.]+)_group(\d+)_t(\d+)", script)
    assert transformer.queries.groups.one2many == (int(hybrid[3]) if hybrid else 0)
    if hybrid:
        assert (criterion.one2many_weight, criterion.num_repeats) == (float(hybrid[1]), int(hybrid[2]))
    else:
        assert "num_repeats" not in criterion

    backbone = re.match(r"(?:decay0\.05_)?(?:drop_path0\.5_)?(r50|r101|swin_(?:small_22k|tiny|small|large))", script)[1]
    shape, weights = BACKBONES[backbone]
    if isinstance(shape, int):
        assert cfg.model.backbone.stages.depth == shape
    else:
        assert list(cfg.model.backbone.depths) == shape
        assert cfg.model.backbone.drop_path_rate == (0.5 if "drop_path0.5" in script else 0.2)
    assert cfg.train.init_checkpoint.endswith(weights)


@pytest.mark.parametrize("project", zoo.PROJECTS)
def test_every_result_with_weights_has_a_row(project):
    published = defaultdict(list)
    for line in lines("published_results.txt"):
        where, source, backbone, queries, epochs, figures = line.split(" | ")
        if where == project:
            published[source, backbone, int(queries), int(epochs)] += map(float, figures.split())
    here = defaultdict(list)
    for entry in zoo.read_zoo(project)[1]:
        here[entry.source, entry.backbone, entry.queries, entry.epochs].append(entry.box_ap)
    assert {key: sorted(values) for key, values in here.items()} == published
