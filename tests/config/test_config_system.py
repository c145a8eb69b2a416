"""Finding, loading, saving and checking configs."""

from __future__ import annotations

import builtins
import logging
import shutil
from pathlib import Path

import pytest
from detectron2.config import LazyCall as L
from detectron2.config import LazyConfig, instantiate
from detectron2.layers import ShapeSpec
from omegaconf import OmegaConf
from torch import nn

from detrex.config import ConfigError, ConfigKeyError, get_config, load_config, save_config, validate_config

ROOT = Path(__file__).parents[2]
SHARED = sorted(p.relative_to(ROOT / "configs").as_posix() for p in (ROOT / "configs").rglob("*.py"))


def node(**kwargs):
    return OmegaConf.create(kwargs, flags={"allow_objects": True})


@pytest.mark.parametrize("name", SHARED)
def test_every_shared_config_loads_and_survives_saving(name, tmp_path):
    cfg = get_config(name)
    cfg.train = get_config("common/train.py").train  # what schedules refer to
    validate_config(cfg)
    save_config(cfg, tmp_path / "saved.yaml")
    again = LazyConfig.load(str(tmp_path / "saved.yaml"))
    validate_config(again)
    save_config(again, tmp_path / "again.yaml")
    assert (tmp_path / "again.yaml").read_text() == (tmp_path / "saved.yaml").read_text()


def test_get_config_gives_fresh_copies():
    get_config("common/train.py").train.seed = 99
    assert get_config("common/train.py").train.seed == -1


def test_get_config_finds_the_configs_of_an_installed_package(monkeypatch, tmp_path):
    shutil.copytree(ROOT / "configs", tmp_path / "detrex" / "configs")
    monkeypatch.setattr("detrex.config.lazy._CONFIG_ROOTS", (tmp_path / "configs", tmp_path / "detrex" / "configs"))
    monkeypatch.chdir(tmp_path)
    assert get_config("common/train.py").train.log_period == 20


def test_an_absent_config_is_named_with_its_nearest_neighbour():
    with pytest.raises(ConfigError, match=r"common/trian\.py not found\. Did you mean .*common/train\.py\?"):
        get_config("common/trian.py")


def test_a_config_that_raises_leaves_imports_alone(tmp_path):
    (tmp_path / "bad.py").write_text("raise RuntimeError('mine')\n")
    before = builtins.__import__
    with pytest.raises(RuntimeError, match="mine"):
        load_config(tmp_path / "bad.py")
    assert builtins.__import__ is before


def test_only_python_and_yaml_are_configs(tmp_path):
    (tmp_path / "a.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"\.py, \.yaml or \.yml"):
        load_config(tmp_path / "a.json")


def test_saved_config_builds_the_same(tmp_path):
    cfg = node(
        model=L(nn.Conv2d)(in_channels=3, out_channels="${.in_channels}", kernel_size=(3, 1)),
        shapes={"res3": ShapeSpec(channels=512, stride=8)},
        target=nn.ReLU,
    )
    save_config(cfg, tmp_path / "c.yaml")
    again = LazyConfig.load(str(tmp_path / "c.yaml"))
    assert again.shapes.res3.stride == 8
    assert again.target is nn.ReLU
    again.model.in_channels = 5  # the interpolation is still one
    conv = instantiate(again.model)
    assert (conv.out_channels, conv.kernel_size) == (5, (3, 1))


def test_saving_what_cannot_be_loaded_names_the_key(tmp_path):
    cfg = node(optimizer={"params": {"lr_factor_func": lambda name: 1.0}})
    with pytest.raises(ConfigError, match=r"optimizer\.params\.lr_factor_func .*lambda.* module that can be imported"):
        save_config(cfg, tmp_path / "c.yaml")
    (tmp_path / "local.py").write_text(
        "from detectron2.config import LazyCall as L\ndef build(): pass\nmodel = L(build)()\n"
    )
    with pytest.raises(ConfigError, match=r"model\._target_"):
        save_config(load_config(tmp_path / "local.py"), tmp_path / "c.yaml")
    assert not (tmp_path / "c.yaml").exists()


@pytest.mark.parametrize(
    ("cfg", "message"),
    [
        (node(model=L(nn.Linear)(in_feature=3, out_features=4)), "model.in_feature'.* did you mean model.in_features"),
        (node(a=[L(nn.Linear)(in_features=3, out_features=4, bais=False)]), "a.0.bais'.* did you mean a.0.bias"),
        (node(train={"max_itr": 3}), "train.max_itr'.* did you mean train.max_iter"),
        (node(train={"clip_grad": {"max_norm": 1}}), "train.clip_grad.max_norm'"),
        (node(train={"checkpointer": {"periods": 1}}), "did you mean train.checkpointer.period"),
    ],
)
def test_keys_that_nothing_reads(cfg, message):
    with pytest.raises(ConfigKeyError, match=message):
        validate_config(cfg)


def test_own_values_belong_in_extra_and_open_signatures_take_anything():
    validate_config(node(train={"extra": {"anything": {"nested": 1}}}, model=L(logging.basicConfig)(a=1)))


def test_a_target_that_does_not_exist():
    with pytest.raises(ConfigError, match=r"model\._target_: cannot import 'torch\.nn\.Conv9d'"):
        validate_config(node(model={"_target_": "torch.nn.Conv9d"}))


def test_validation_resolves_nothing():
    cfg = node(model=L(nn.Linear)(in_features="${nowhere}", out_features="???"), b="${model}")
    validate_config(cfg)
