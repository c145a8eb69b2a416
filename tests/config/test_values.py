"""Values have the type that their key expects, whether an override gives them or a file."""

from __future__ import annotations

import copy
import functools
import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import pytest
import torch
from detectron2.config import LazyCall as L
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import DictConfig, ListConfig, OmegaConf

from detrex.cli.train import main
from detrex.config import ConfigError, apply_overrides, get_config, load_config, validate_config
from detrex.config.values import DURATION_KEYS, KEY_TYPES

CONFIG = "projects/deformable_detr/configs/custom_small.py"
TRUE, FALSE = ("true", "True", "on", "Yes", "y", "1"), ("false", "FALSE", "off", "no", "n", "0")


@functools.cache
def _small() -> DictConfig:
    return load_config(CONFIG)


def overridden(*overrides: str) -> DictConfig:
    return apply_overrides(copy.deepcopy(_small()), overrides)


def from_file(values: Mapping[str, Any]) -> DictConfig:
    cfg = copy.deepcopy(_small())
    for key, value in values.items():
        OmegaConf.update(cfg, key, value)
    validate_config(cfg)
    return cfg


def leaves(section: DictConfig, path: str) -> dict[str, Any]:
    found = {}
    for key, value in section.items():
        if isinstance(value, DictConfig):
            found |= leaves(value, f"{path}.{key}")
        else:
            found[f"{path}.{key}"] = value
    return found


TRAIN = leaves(get_config("common/train.py").train, "train")
DURATIONS = {f"train.{key}" for key in DURATION_KEYS}
BOOLEANS = [key for key, value in TRAIN.items() if isinstance(value, bool)]
NUMBERS = [key for key, value in TRAIN.items() if type(value) in (int, float) and key not in DURATIONS]
LISTS = [key for key, value in TRAIN.items() if isinstance(value, ListConfig)]
NAMES = ["train.optimizations.training", "train.optimizations.evaluation"]
TEXTS = [key for key, value in TRAIN.items() if isinstance(value, str) and key not in {*DURATIONS, *NAMES}]


def test_every_key_of_train_is_of_a_known_kind():
    assert sorted([*BOOLEANS, *NUMBERS, *LISTS, *NAMES, *TEXTS, *DURATIONS]) == sorted(TRAIN)


def test_every_key_of_the_data_has_a_type():
    data = get_config("common/data/custom.py").dataloader.data
    assert {f"dataloader.data.{key}" for key in data} <= KEY_TYPES.keys()


# ----------------------------------------------------------------------------------------------- all keys of train
@pytest.mark.parametrize("key", BOOLEANS)
def test_a_switch_understands_yaml_booleans_and_nothing_else(key):
    for text, expected in [*dict.fromkeys(TRUE, True).items(), *dict.fromkeys(FALSE, False).items()]:
        assert OmegaConf.select(overridden(f"{key}={text}"), key) is expected
        assert OmegaConf.select(from_file({key: text}), key) is expected
    for text in ("of", "none", "2", "0.0", "null", "[true]", "", "'  '"):
        with pytest.raises(ConfigError, match="expected true or false"):
            overridden(f"{key}={text}")


@pytest.mark.parametrize("key", NUMBERS)
@settings(max_examples=20)
@given(value=st.one_of(st.integers(), st.floats(allow_nan=False), st.text("0123456789.e-+abx", max_size=6)))
def test_a_number_is_a_number_or_an_error(key, value):
    results = []
    for give in (lambda: overridden(f"{key}='{value}'"), lambda: from_file({key: value})):
        try:
            results.append(OmegaConf.select(give(), key))
        except ConfigError:
            results.append(None)
    assert results[0] == results[1]
    if results[0] is not None:
        assert type(results[0]) in ((int,) if isinstance(TRAIN[key], int) and "timeout" not in key else (int, float))
        assert results[0] == pytest.approx(float(value))


@pytest.mark.parametrize("key", TEXTS)
@settings(max_examples=20)
@given(value=st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1))
def test_a_text_is_what_was_typed(key, value):
    if value.strip() != value or value[0] in "'\"" or "${" in value or value in ("???", "null") or "\\" in value:
        return  # quoted, a reference, nothing, or escaped: hydra's grammar
    expected = os.path.expanduser(value) if key in ("train.output_dir", "train.init_checkpoint") else value
    assert OmegaConf.select(overridden(f"{key}={value}"), key) == expected


@pytest.mark.parametrize("key", [*TEXTS, "dataloader.data.root", "dataloader.data.name"])
@pytest.mark.parametrize("value", ["20260101", "007", "1e-4", "true", "out (2)", "a,b", "f(x)", "a=b", "Läufe/数据"])
def test_a_folder_may_be_called_like_this(key, value):
    assert OmegaConf.select(overridden(f"{key}={value}"), key) == value


@pytest.mark.parametrize("key", sorted(DURATIONS))
def test_a_duration(key):
    for text, expected in {"12ep": "12ep", "0.5ep": "0.5ep", "300": 300, "9e4": 90000, "'300'": 300}.items():
        assert OmegaConf.select(overridden(f"{key}={text}"), key) == expected
    for text in ("two", "1.5", "-1", "true", "12 epo", "null", "[1]"):
        with pytest.raises(ConfigError, match="expected a duration"):
            overridden(f"{key}={text}")


@pytest.mark.parametrize("key", LISTS)
def test_a_text_where_a_list_belongs_is_a_list_of_one(key):
    assert OmegaConf.select(overridden(f"{key}=class_embed"), key) == ["class_embed"]
    assert OmegaConf.select(overridden(f"{key}=^a|b$"), key) == ["^a|b$"]
    assert OmegaConf.select(overridden(f"{key}=[a,b]"), key) == ["a", "b"]
    assert OmegaConf.select(from_file({key: "class_embed"}), key) == ["class_embed"]
    with pytest.raises(ConfigError, match=r"write a list as \[a,b\]"):
        overridden(f"{key}=a,b")


def test_a_section_in_one_override_is_checked_as_well():
    assert overridden("train.ema={enabled: off}").train.ema.enabled is False
    with pytest.raises(ConfigError, match=r"train\.ema\.decay='x': expected a number"):
        overridden("train.ema={decay: x}")


def test_a_tilde_is_the_home_folder(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    for key in ("train.output_dir", "train.init_checkpoint", "dataloader.data.root", "dataloader.data.train_json"):
        for text in ("~/a b", "'~/a b'"):
            assert OmegaConf.select(overridden(f"{key}={text}"), key) == "/home/me/a b"
        assert OmegaConf.select(from_file({key: "~/a b"}), key) == "/home/me/a b"
    assert "seed" not in overridden("~train.seed").train


# ------------------------------------------------------------------------------------------------- signatures of nodes
def _node(annotation: Any, default: Any = inspect.Parameter.empty) -> DictConfig:
    parameter = inspect.Parameter("x", inspect.Parameter.KEYWORD_ONLY, annotation=annotation, default=default)

    def call(**kwargs):
        return kwargs

    call.__signature__ = inspect.Signature([parameter])
    call.__annotations__ = {} if annotation is inspect.Parameter.empty else {"x": annotation}
    return OmegaConf.create({"node": L(call)()}, flags={"allow_objects": True})


def _has_type(value: Any, annotation: Any) -> bool:
    checks: dict[Any, Callable[[Any], bool]] = {
        bool: lambda v: isinstance(v, bool),
        int: lambda v: type(v) is int,
        float: lambda v: type(v) in (int, float),
        str: lambda v: isinstance(v, str),
        int | None: lambda v: v is None or type(v) is int,
        float | torch.Tensor: lambda v: type(v) in (int, float),
        Literal["a", 1]: lambda v: v in ("a", 1),
        Sequence[float]: lambda v: isinstance(v, ListConfig) and all(type(x) in (int, float) for x in v),
        tuple[int, int]: lambda v: isinstance(v, ListConfig) and len(v) == 2 and all(type(x) is int for x in v),
        Mapping[str, float]: lambda v: isinstance(v, DictConfig) and all(type(x) in (int, float) for x in v.values()),
    }
    return checks[annotation](value)


ANNOTATIONS = [
    bool, int, float, str, int | None, float | torch.Tensor, Literal["a", 1], Sequence[float], tuple[int, int],
    Mapping[str, float],
]  # fmt: skip
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.floats(-9, 9) | st.sampled_from(["a", "1", "1e-4", "on"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("ab"), inner, max_size=2),
    max_leaves=4,
)


@given(annotation=st.sampled_from(ANNOTATIONS), value=PLAIN)
def test_an_argument_has_its_annotation_or_is_an_error(annotation, value):
    cfg = _node(annotation)
    cfg.node.x = value
    try:
        validate_config(cfg)
    except ConfigError:
        assert not _has_type(_node_value(value), annotation)
        return
    assert _has_type(cfg.node.x, annotation)
    before = copy.deepcopy(cfg)
    validate_config(cfg)
    assert cfg == before  # what fits is left as it is


def _node_value(value: Any) -> Any:
    return OmegaConf.create({"x": value}).x


@given(default=st.none() | st.booleans() | st.integers() | st.floats() | st.text(), value=PLAIN)
def test_without_annotations_switches_and_numbers_are_still_no_other_text(default, value):
    cfg = _node(inspect.Parameter.empty, default)
    cfg.node.x = value
    try:
        validate_config(cfg)
    except ConfigError:
        assert isinstance(value, str)
        assert isinstance(default, (bool, int, float))
        return
    assert not (isinstance(cfg.node.x, str) and isinstance(default, (bool, int, float)))


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("optimizer.lr='1e-4'", 1e-4),
        ("optimizer.betas=[0.9,'0.98']", [0.9, 0.98]),
        ("model.num_classes=3.0", 3),
        ("dataloader.train.total_batch_size=auto", "auto"),
        ("dataloader.test.mapper.augmentation.0.short_edge_length=640", 640),
        ("dataloader.train.mapper.augmentation_with_crop=null", None),
        ("dataloader.train.aspect_ratio_grouping=off", False),
    ],
)
def test_arguments_of_published_configs(override, expected):
    assert OmegaConf.select(overridden(override), override.partition("=")[0]) == expected


@pytest.mark.parametrize(
    "override",
    [
        "train.seed=99999999999", "train.accumulate=two", "train.accumulate=0", "optimizer.lr=fast", "train.seed=",
        "train.ema.enabled=maybe", "train.output_dir=null", "model.num_classes=3.5", "model.pixel_mean=[a,b,c]",
        "dataloader.train.total_batch_size=many", "train.ema.decay=2",
    ],
)  # fmt: skip
def test_a_wrong_value_ends_with_status_2_and_one_line(override, capsys):
    assert main(["--config-file", CONFIG, "dataloader.data.root=/nowhere", override]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert error.startswith(f"error: override {override}: expected ")


def test_a_wrong_value_in_a_file_names_its_key(tmp_path):
    (tmp_path / "mine.py").write_text(
        f"from detrex.config import get_config\nbase = get_config({CONFIG!r})\nmodel, train = base.model, base.train\n"
        "dataloader, optimizer, lr_multiplier = base.dataloader, base.optimizer, base.lr_multiplier\ndel base\n"
        "optimizer.weight_decay = 'little'\n"
    )
    with pytest.raises(ConfigError, match=r"optimizer\.weight_decay='little': expected a number"):
        validate_config(load_config(tmp_path / "mine.py"))
