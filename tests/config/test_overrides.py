"""Overrides: hydra's grammar, and errors instead of silence."""

from __future__ import annotations

import pytest
from detectron2.config import LazyCall as L
from omegaconf import OmegaConf
from torch import nn, optim

from detrex.config import ConfigError, ConfigKeyError, apply_overrides


@pytest.fixture
def cfg():
    return OmegaConf.create(
        {
            "optimizer": L(optim.AdamW)(params={"base_lr": "${..lr}"}, lr=1e-4),
            "model": L(nn.Sequential)(num_classes=80),
            "train": {"max_iter": "50ep", "output_dir": "./output", "extra": {}, "path": "???", "name": None},
            "augmentation": [{"size": 1}, {"size": 2}],
        },
        flags={"allow_objects": True},
    )


@pytest.mark.parametrize(
    ("override", "key", "value"),
    [
        ("optimizer.lr=2e-4", "optimizer.lr", 2e-4),
        ("optimizer.lr=2e-4", "optimizer.params.base_lr", 2e-4),  # derived values follow
        ("optimizer.eps=1e-6", "optimizer.eps", 1e-6),  # a parameter of the target that the config leaves out
        ("optimizer.betas=[0.9,0.98]", "optimizer.betas", [0.9, 0.98]),
        ("train.max_iter=12ep", "train.max_iter", "12ep"),
        ("train.max_iter=0.5ep", "train.max_iter", "0.5ep"),
        ("train.max_iter=90000", "train.max_iter", 90000),
        ("train.output_dir=/a b/c", "train.output_dir", "/a b/c"),
        ("train.output_dir='a=b,c'", "train.output_dir", "a=b,c"),
        ("train.output_dir=", "train.output_dir", ""),
        ("train.output_dir=a=b", "train.output_dir", "a=b"),
        ("train.name=null", "train.name", None),
        ("train.path=x", "train.path", "x"),  # a value still to be given
        ("train.name=x", "train.name", "x"),
        ("train.extra.mine=1", "train.extra.mine", 1),  # an empty section takes anything
        ("augmentation.1.size=7", "augmentation.1.size", 7),
        ("+train.mine.deep=3", "train.mine.deep", 3),
        ("++train.max_iter=3", "train.max_iter", 3),
        ("model.num_classes=${train.max_iter}", "model.num_classes", "50ep"),
    ],
)
def test_what_is_known_can_be_set(cfg, override, key, value):
    assert apply_overrides(cfg, [override]) is cfg
    assert OmegaConf.select(cfg, key) == value


def test_later_overrides_win_and_tilde_removes(cfg):
    apply_overrides(cfg, ["optimizer.lr=1", "optimizer.lr=2", "~train.name", "~augmentation.0"])
    assert cfg.optimizer.lr == 2
    assert "name" not in cfg.train
    assert cfg.augmentation == [{"size": 2}]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optimizer.lrr=1", "unknown key 'optimizer.lrr': did you mean optimizer.lr?"),
        ("lr=1", "unknown key 'lr': did you mean optimizer.lr?"),
        ("optimiser.lr=1", "unknown key 'optimiser.lr': did you mean optimizer.lr?"),
        ("optimizer.weight_decai=0", "unknown key 'optimizer.weight_decai': did you mean optimizer.weight_decay?"),
        ("train.max_itr=1", "unknown key 'train.max_itr': did you mean train.max_iter?"),
        ("num_classes=3", "unknown key 'num_classes': did you mean model.num_classes?"),
        ("train.max_iter.x=1", "unknown key 'train.max_iter.x': train.max_iter is a value ('50ep'), not a section"),
        ("augmentation.2.size=1", "augmentation is a list with entries 0 to 1"),
        ("augmentation.size=1", "augmentation is a list with entries 0 to 1"),
        ("~train.maximum=1", "unknown key 'train.maximum'"),
        ("train.zzz=1", "unknown key 'train.zzz': train has extra, max_iter, name, output_dir, path"),
    ],
)
def test_unknown_keys(cfg, override, message):
    before = OmegaConf.to_container(cfg)
    with pytest.raises(ConfigKeyError) as error:
        apply_overrides(cfg, [override])
    assert message in str(error.value)
    assert OmegaConf.to_container(cfg) == before


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optimizer.lr", "Write key=value"),
        ("--eval-only", "'--eval-only' is an option: options stand before the overrides"),
        ("optimizer.betas=a=b", "needs quotes"),
        ("train.max_iter=3,4", "it gives several values; write a list as [a,b]"),
        ("optimizer.lr=1,2", "write a list as [a,b]"),
        ("optimizer=3", "would replace a whole section by a value; its keys are optimizer.params, optimizer.lr"),
        ("~optimizer.eps", "it is not set"),
    ],
)
def test_overrides_that_make_no_sense(cfg, override, message):
    with pytest.raises(ConfigError) as error:
        apply_overrides(cfg, [override])
    assert message in str(error.value)


def test_errors_are_key_errors_and_value_errors():
    """Callers of LazyConfig.apply_overrides expect KeyError, the command line catches ConfigError."""
    assert issubclass(ConfigKeyError, KeyError)
    assert issubclass(ConfigKeyError, ValueError)
