"""Lazy configs: files, overrides, saving, instantiation."""

from __future__ import annotations

import ast
import builtins
import collections
import enum
import functools
import json
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.config import CfgNode, LazyCall, LazyConfig, configurable, instantiate
from detectron2.layers import ShapeSpec
from detectron2.utils.registry import _convert_target_to_string, locate
from omegaconf import DictConfig, ListConfig, OmegaConf
from torch import nn

from .conftest import LITE, lite_only


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A tree of config files without any package."""
    (tmp_path / "sub" / "deep").mkdir(parents=True)
    (tmp_path / "base.py").write_text("options = {'a': 1, 'nested': {'b': 2}}\nnumber = 3\n")
    (tmp_path / "sub" / "leaf.py").write_text(
        "from ..base import options, number\n"
        "from .deep.bottom import layer\n"
        "options.a = 'changed'\n"
        "layer.out_features = number\n"
        "_private = {'x': 1}\n"
        "items = [1, 2]\n"
    )
    (tmp_path / "sub" / "deep" / "bottom.py").write_text(
        "from detectron2.config import LazyCall as L\n"
        "from torch import nn\n"
        "layer = L(nn.Linear)(in_features=2, out_features='${.in_features}')\n"
    )
    return tmp_path


# Python files


def test_relative_imports_go_by_file_position(files: Path) -> None:
    cfg = LazyConfig.load(str(files / "sub" / "leaf.py"))
    assert set(cfg) == {"options", "layer"}  # neither numbers, nor lists, nor private names
    assert isinstance(cfg.options, DictConfig)
    assert cfg.options.a == "changed"
    assert cfg.layer.out_features == 3
    assert cfg.layer._target_ is nn.Linear


def test_imports_are_not_shared_between_loads(files: Path) -> None:
    LazyConfig.load(str(files / "sub" / "leaf.py")).options.nested.b = 99
    again = LazyConfig.load(str(files / "sub" / "leaf.py"))
    assert again.options.nested.b == 2
    assert LazyConfig.load(str(files / "base.py")).options.a == 1
    assert not any("_cfg_loader" in name for name in sys.modules)


def test_keys(files: Path) -> None:
    filename = str(files / "base.py")
    assert LazyConfig.load(filename, "number") == 3
    options, number = LazyConfig.load(filename, ("options", "number"))
    assert isinstance(options, DictConfig)
    assert number == 3
    with pytest.raises(KeyError, match="absent"):
        LazyConfig.load(filename, "absent")


def test_load_rel_is_relative_to_the_calling_file(files: Path) -> None:
    text = "from detectron2.config import LazyConfig\ncfg = LazyConfig.load_rel('base.py')\n"
    (files / "caller-1.py").write_text(text)
    assert LazyConfig.load(str(files / "caller-1.py")).cfg.options.a == 1


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("from . import base", "elative import"),
        ("from .sub import leaf", "elative import"),
        ("from .absent import x", "not exist"),
    ],
)
def test_bad_relative_imports_name_the_file(files: Path, statement: str, message: str) -> None:
    (files / "bad.py").write_text(statement)
    with pytest.raises(ImportError, match=message) as error:
        LazyConfig.load(str(files / "bad.py"))
    if LITE:
        assert "bad.py" in str(error.value)


def test_syntax_errors_name_the_file(files: Path) -> None:
    (files / "broken.py").write_text("x = (")
    with pytest.raises(SyntaxError, match=r"broken\.py has syntax error"):
        LazyConfig.load(str(files / "broken.py"))
    (files / "parent.py").write_text("from .broken import x")
    with pytest.raises(SyntaxError, match=r"broken\.py has syntax error"):
        LazyConfig.load(str(files / "parent.py"))


def test_other_files_are_refused(files: Path) -> None:
    with pytest.raises(ValueError, match=r"cfg\.json"):
        LazyConfig.load(str(files / "cfg.json"))


@lite_only("builtins.__import__ stays patched when a config raises")
def test_a_config_that_raises_leaves_nothing_behind(files: Path) -> None:
    (files / "raises.py").write_text("from .base import options\nraise RuntimeError('on purpose')")
    before = builtins.__import__
    for _ in range(1100):  # one wrapper each would end in a RecursionError
        with pytest.raises(RuntimeError, match="on purpose"):
            LazyConfig.load(str(files / "raises.py"))
    assert builtins.__import__ is before
    assert LazyConfig.load(str(files / "sub" / "leaf.py")).layer.in_features == 2


@lite_only("relative imports rely on a process-wide patch during the load")
def test_loading_in_threads_and_importing_later(files: Path) -> None:
    (files / "lazy.py").write_text("def late():\n    from .base import number\n    return number\n")
    late = LazyConfig.load(str(files / "lazy.py"), "late")
    results: list[Any] = []
    threads = [threading.Thread(target=lambda: results.append(late())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [3] * 4


@lite_only("KeyError: star imports")
def test_star_import(files: Path) -> None:
    (files / "star.py").write_text("from .base import *\noptions.a = number\n")
    assert LazyConfig.load(str(files / "star.py")).options.a == 3


@lite_only("imports torch, OpenCV and more")
def test_import_is_light() -> None:
    code = "import sys, detectron2.config; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


# Overrides


def _config() -> DictConfig:
    return OmegaConf.create({"a": {"b": 1, "c": None, "list": [1, 2]}, "f": 0.5}, flags={"allow_objects": True})


@pytest.mark.parametrize(
    ("override", "key", "value"),
    [
        ("a.b=2", "a.b", 2),
        ("a.c=[1,x]", "a.c", [1, "x"]),
        ("a.list.0=9", "a.list", [9, 2]),
        ("+a.d=5", "a.d", 5),
        ("++a.e={x:1}", "a.e", {"x": 1}),
        ("new.deep.key=1", "new.deep.key", 1),
        ("a.b='2'", "a.b", "2"),
        ("a.b=null", "a.b", None),
        ("f=1e-4", "f", 1e-4),
        ("a.b=${f}", "a.b", 0.5),
        ("a.b=true", "a.b", True),
    ],
)
def test_overrides(override: str, key: str, value: Any) -> None:
    cfg = _config()
    assert LazyConfig.apply_overrides(cfg, [override]) is cfg
    assert OmegaConf.select(cfg, key) == value


def test_override_keeps_interpolations() -> None:
    cfg = LazyConfig.apply_overrides(_config(), ["a.b=${f}", "f=7"])
    assert cfg.a.b == 7


def test_overrides_that_are_errors() -> None:
    with pytest.raises(KeyError, match=r"a\.b"):
        LazyConfig.apply_overrides(_config(), ["a.b.c=1"])
    with pytest.raises(NotImplementedError):
        LazyConfig.apply_overrides(_config(), ["~a.b"])


@lite_only("a sweep ends in an unsupported value type")
def test_a_sweep_is_an_error_that_says_what_to_write() -> None:
    with pytest.raises(ValueError, match=r"a\.b=\[\.\.\.\]"):
        LazyConfig.apply_overrides(_config(), ["a.b=1,2"])


# Calls


def test_lazy_call() -> None:
    call = LazyCall(nn.Linear)(in_features=1)
    assert isinstance(call, DictConfig)
    assert call._target_ is nn.Linear
    assert LazyCall("torch.nn.Linear")(in_features=1)._target_ == "torch.nn.Linear"
    assert LazyCall(ShapeSpec)()._target_.endswith("ShapeSpec")  # a dataclass, by its name
    with pytest.raises(TypeError):
        LazyCall(3)


def _record(**kwargs: Any) -> dict[str, Any]:
    return kwargs


def test_instantiate_builds_arguments_and_lists_but_not_plain_mappings() -> None:
    cfg = LazyCall(_record)(
        module=LazyCall(nn.Linear)(in_features=2, out_features="${..size}"),
        size=3,
        several=[LazyCall(nn.ReLU)(), 1],
        data={"inside": LazyCall(nn.ReLU)()},
        shape=ShapeSpec(channels=4),
    )
    built = instantiate(cfg)
    assert built["module"].out_features == 3
    assert isinstance(built["several"], ListConfig)
    assert isinstance(built["several"][0], nn.ReLU)
    assert isinstance(built["data"], DictConfig)
    assert built["data"].inside._target_ is nn.ReLU
    assert built["shape"] == ShapeSpec(channels=4)
    assert isinstance(built["shape"], ShapeSpec)


def test_instantiate_other_values() -> None:
    assert instantiate(3) == 3
    assert instantiate({"a": 1}) == {"a": 1}
    assert isinstance(instantiate([LazyCall(nn.ReLU)()])[0], nn.ReLU)
    assert instantiate({"_target_": "collections.Counter", "a": 2}) == collections.Counter(a=2)
    target_is_a_call = {"_target_": {"_target_": "detectron2.utils.registry.locate", "name": "torch.nn.ReLU"}}
    assert isinstance(instantiate(target_is_a_call), nn.ReLU)


def test_a_wrong_argument_is_logged_with_the_class(d2_log: pytest.LogCaptureFixture) -> None:
    with pytest.raises(TypeError, match="no_such"):
        instantiate(LazyCall(nn.Linear)(no_such=1))
    assert "torch.nn.modules.linear.Linear" in d2_log.text


# Names


def test_locate() -> None:
    assert locate("torch.optim.SGD") is torch.optim.SGD
    assert locate("torch.nn.Linear.forward") is nn.Linear.forward
    assert _convert_target_to_string(nn.Linear) == "torch.nn.Linear"
    for name in ("no_such_module.x", "torch.nn.NoSuch", "torch.no.such"):
        with pytest.raises(ImportError):
            locate(name)


@lite_only("a broken module reads as an absent one")
def test_locate_does_not_hide_errors_of_a_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken_on_import.py").write_text("import a_module_that_is_not_installed")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="a_module_that_is_not_installed"):
        locate("broken_on_import.Class")


# Saving


class _Color(enum.Enum):
    RED = 1


@dataclass
class _Part:
    size: int = 1
    name: str = "x"


def _saved_and_loaded(cfg: Any, folder: Path) -> DictConfig:
    filename = str(folder / "config.yaml")
    LazyConfig.save(cfg, filename)
    assert not Path(f"{filename}.pkl").exists()
    return LazyConfig.load(filename)


def test_save_and_load(tmp_path: Path) -> None:
    cfg = DictConfig(
        {
            "layer": LazyCall(nn.Conv2d)(in_channels=3, stride="${.in_channels}"),
            "shapes": {"res2": ShapeSpec(channels=256)},
            "factory": nn.GELU,
            "partial": functools.partial(nn.LayerNorm, eps=1e-6),
            "unicode": "é",
        },
        flags={"allow_objects": True},
    )
    loaded = _saved_and_loaded(cfg, tmp_path)
    assert loaded.layer._target_ == "torch.nn.Conv2d"
    assert OmegaConf.to_container(loaded, resolve=False)["layer"]["stride"] == "${.in_channels}"
    assert loaded.shapes.res2 == ShapeSpec(channels=256)
    assert loaded.factory is nn.GELU
    assert loaded.partial.func is nn.LayerNorm
    assert loaded.partial.keywords == {"eps": 1e-6}
    assert "object:detectron2.layers.shape_spec.ShapeSpec" in (tmp_path / "config.yaml").read_text()
    assert cfg.layer._target_ is nn.Conv2d  # saving changes nothing


def test_save_and_load_of_other_objects(tmp_path: Path) -> None:
    cfg = DictConfig({"color": _Color.RED, "part": _Part(size=3), "path": Path("a/b")}, flags={"allow_objects": True})
    loaded = _saved_and_loaded(cfg, tmp_path)
    assert loaded.color is _Color.RED
    assert instantiate(loaded.part) == _Part(size=3)
    assert loaded.path == Path("a/b")


@lite_only("a torch.dtype cannot be written")
def test_save_and_load_of_dtypes(tmp_path: Path) -> None:
    cfg = DictConfig({"x": torch.bfloat16}, flags={"allow_objects": True})
    assert _saved_and_loaded(cfg, tmp_path).x is torch.bfloat16


def test_what_yaml_cannot_hold_is_pickled(tmp_path: Path) -> None:
    import cloudpickle

    cfg = DictConfig({"a": {"f": lambda: 3}}, flags={"allow_objects": True})
    LazyConfig.save(cfg, str(tmp_path / "c.yaml"))
    assert (tmp_path / "c.yaml").exists()
    assert cloudpickle.loads((tmp_path / "c.yaml.pkl").read_bytes()).a.f() == 3


@lite_only("does not say which key")
def test_the_warning_names_the_key(tmp_path: Path, d2_log: pytest.LogCaptureFixture) -> None:
    cfg = DictConfig({"a": {"f": lambda: 3, "g": 1}}, flags={"allow_objects": True})
    LazyConfig.save(cfg, str(tmp_path / "c.yaml"))
    assert "a.f=" in d2_log.text
    assert "a.g" not in d2_log.text


@lite_only("yaml.unsafe_load runs code")
@pytest.mark.parametrize(
    "text",
    [
        "x: !!python/object/apply:os.system ['touch {marker}']",
        "x: !!python/object/new:os.system ['touch {marker}']",
        "x: !!python/object/apply:functools.partial\n  args: [!!python/name:os.system '']\n"
        "  state: !!python/tuple [!!python/object/apply:os.system ['touch {marker}'], !!python/tuple [], {{}}, null]",
        "x: !!python/object:collections.Counter {{a: 1}}",
        "x: !!python/name:antigravity.fly_to ''",
        "x: !!python/module:antigravity ''",
    ],
)
def test_a_yaml_config_cannot_run_code(tmp_path: Path, text: str) -> None:
    import yaml

    marker = tmp_path / "marker"
    (tmp_path / "evil.yaml").write_text(text.format(marker=marker))
    with pytest.raises(yaml.YAMLError, match=r"evil\.yaml"):
        LazyConfig.load(str(tmp_path / "evil.yaml"))
    assert not marker.exists()
    assert "antigravity" not in sys.modules


def test_to_py() -> None:
    cfg = DictConfig(
        {"b": {"y": "s", "x": LazyCall(nn.Linear)(out_features=[1, {"k": 2.5}], in_features="${b.y}")}, "a": None},
        flags={"allow_objects": True},
    )
    expected = "cfg.a = None\ncfg.b.x = torch.nn.Linear(in_features='s', out_features=[1, {'k': 2.5}])\ncfg.b.y = 's'"
    assert ast.dump(ast.parse(LazyConfig.to_py(cfg))) == ast.dump(ast.parse(expected))


# yacs


class _Configurable:
    @configurable
    def __init__(self, a: int, b: int = 2) -> None:
        self.values = (a, b)

    @classmethod
    def from_config(cls, cfg: Any) -> dict[str, Any]:
        return {"a": cfg.A}


@pytest.mark.parametrize("node", [CfgNode({"A": 5}), DictConfig({"A": 5})])
def test_configurable_class(node: Any) -> None:
    assert _Configurable(node).values == (5, 2)
    assert _Configurable(cfg=node, b=3).values == (5, 3)
    assert _Configurable(1, b=4).values == (1, 4)


def test_configurable_function() -> None:
    @configurable(from_config=lambda cfg, scale=1: {"a": cfg.A * scale})
    def function(a: int, b: int = 2) -> tuple[int, int]:
        return a, b

    assert function(CfgNode({"A": 5})) == (5, 2)
    assert function(CfgNode({"A": 5}), scale=2, b=7) == (10, 7)
    assert function(1, b=0) == (1, 0)


def test_configurable_needs_from_config() -> None:
    class Bare:
        @configurable
        def __init__(self, a: int) -> None: ...

    with pytest.raises(AttributeError, match="from_config"):
        Bare(a=1)


def test_yaml_files_load(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(json.dumps({"a": {"b": 1}}))
    assert LazyConfig.load(str(tmp_path / "c.yaml")).a.b == 1
    assert LazyConfig.load(str(tmp_path / "c.yaml"), "a").b == 1
