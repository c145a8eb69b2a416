"""Learning-rate recipes."""

from __future__ import annotations

import pytest
from detectron2.config import LazyCall as L
from omegaconf import OmegaConf
from torch import nn

from detrex.config import ConfigError, get_config, load_config, save_config
from detrex.solver.param_groups import LRFactors, build_optimizer, freeze


class Net(nn.Module):
    """One parameter of each kind that a recipe treats by itself."""

    def __init__(self, *, reference_points: bool = True):
        super().__init__()
        self.backbone = nn.Conv2d(1, 1, 1)
        self.my_backbone = nn.Linear(1, 1)
        self.norm = nn.LayerNorm(1)
        self.attn = nn.ModuleDict({"sampling_offsets": nn.Linear(1, 1)})
        if reference_points:
            self.reference_points = nn.Linear(1, 1)
        self.frozen = nn.Linear(1, 1).requires_grad_(False)


def groups(recipe: str, model: nn.Module) -> dict[str, tuple[float, float]]:
    """Parameter name -> (learning rate, weight decay)."""
    cfg = OmegaConf.create({"optimizer": get_config("common/optim.py")[recipe]}, flags={"allow_objects": True})
    names = {p: name for name, p in model.named_parameters()}
    optimizer = build_optimizer(cfg, model)
    return {names[p]: (g["lr"], g["weight_decay"]) for g in optimizer.param_groups for p in g["params"]}


def test_recipe_of_the_detrex_zoo():
    found = groups("detrex_zoo", Net())
    assert found["backbone.weight"] == pytest.approx((1e-5, 1e-4))
    for name in ("my_backbone.weight", "attn.sampling_offsets.bias", "reference_points.weight"):
        assert found[name] == pytest.approx((1e-4, 1e-4))
    assert found["norm.weight"] == pytest.approx((1e-4, 0))
    assert not any(name.startswith("frozen") for name in found)


@pytest.mark.parametrize("reference_points", [True, False], ids=["one_stage", "two_stage"])
def test_official_recipe(reference_points):
    found = groups("official", Net(reference_points=reference_points))
    slow = [name for name in found if name.split(".")[0] in ("backbone", "reference_points") or "offsets" in name]
    assert len(slow) == (6 if reference_points else 4)
    for name, values in found.items():
        assert values == pytest.approx((2e-5 if name in slow else 2e-4, 1e-4)), name


@pytest.mark.parametrize("recipe", ["AdamW", "detrex_zoo", "official"])
def test_one_override_of_the_learning_rate_reaches_every_group(recipe, tmp_path):
    cfg = OmegaConf.create({"optimizer": get_config("common/optim.py")[recipe]}, flags={"allow_objects": True})
    save_config(cfg, tmp_path / "c.yaml")
    cfg = load_config(tmp_path / "c.yaml", ["optimizer.lr=1.0"])
    rates = {g["lr"] for g in build_optimizer(cfg, Net()).param_groups}
    assert rates == ({1.0} if recipe == "AdamW" else {1.0, 0.1})
    assert "model" not in cfg.optimizer.params  # the config can still be written to a file


def test_factors_match_whole_components_and_multiply():
    factors = LRFactors(factors={"backbone": 0.1, "encoder.layers": 0.5, "layers": 0.2})
    assert factors("backbone.res2.weight") == pytest.approx(0.1)
    assert factors("my_backbone.weight") == factors("layers_norm.weight") == 1.0
    assert factors("transformer.encoder.layers.0.weight") == pytest.approx(0.1)
    assert factors("transformer.decoder.layers.0.weight") == pytest.approx(0.2)


def test_a_factor_that_matches_nothing_is_an_error():
    cfg = OmegaConf.create({"optimizer": get_config("common/optim.py").detrex_zoo}, flags={"allow_objects": True})
    cfg.optimizer.params.lr_factor_func = L(LRFactors)(factors={"bakbone": 0.1})
    with pytest.raises(ConfigError, match=r"'bakbone' matches no parameter.*attn, backbone, frozen, my_backbone"):
        build_optimizer(cfg, Net())


def test_factors_of_frozen_parameters_are_dropped():
    """As with backbone.freeze_at=5, where the recipe's factor of the backbone has nothing left to slow down."""
    cfg = OmegaConf.create({"optimizer": get_config("common/optim.py").detrex_zoo}, flags={"allow_objects": True})
    cfg.optimizer.params.lr_factor_func = L(LRFactors)(factors={"frozen": 0.1})
    assert {group["lr"] for group in build_optimizer(cfg, Net()).param_groups} == {1e-4}
    with pytest.raises(ConfigError, match="no parameter to train"):
        build_optimizer(cfg, Net().requires_grad_(False))


def test_freezing_matches_names_as_factors_do():
    model = Net()
    assert freeze(model, ["backbone", "attn.sampling_offsets"]) == [model.backbone, model.attn["sampling_offsets"]]
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    assert frozen == {
        f"{part}.{kind}" for part in ("backbone", "attn.sampling_offsets", "frozen") for kind in ("weight", "bias")
    }
    with pytest.raises(ConfigError, match=r"train\.freeze: 'bakbone' matches no parameter.*attn, backbone"):
        freeze(model, ["backbone", "bakbone"])


def test_factors_are_checked():
    with pytest.raises(ConfigError, match=r"'a' is -1\.0"):
        LRFactors(factors={"a": -1})
    with pytest.raises(ConfigError, match=r"\['b'\] have no factor"):
        LRFactors(factors={"a": 1}, optional=["b"])
