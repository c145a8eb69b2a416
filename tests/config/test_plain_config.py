"""A config inside a file: the same model comes back, and nothing else can be called."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from detectron2.config import LazyCall as L
from detectron2.config import instantiate
from detectron2.layers import ShapeSpec
from omegaconf import OmegaConf
from torch import nn

from detrex.checkpoint import Checkpointer
from detrex.checkpoint.metadata import checkpoint_metadata
from detrex.config import ConfigError, load_config
from detrex.config.instantiation import build_on_meta
from detrex.config.serialization import from_plain, to_plain
from detrex.inference.detector import Detector
from detrex.modeling import QueryGroups

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = sorted(ROOT.glob("projects/*/configs/*.py"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_published_config_fits_into_a_file(path, caplog):
    cfg = load_config(path)
    metadata = json.loads(json.dumps(checkpoint_metadata(cfg, class_names=(), category_ids=())))
    assert not caplog.records
    again = from_plain(metadata["config"])
    assert to_plain(again) == metadata["config"]
    assert type(instantiate(again.dataloader.test.mapper)).__name__ == "DetrDatasetMapper"


def test_the_same_model_comes_back():
    cfg = load_config(ROOT / "projects/h_deformable_detr/configs/h_deformable_detr_r50_two_stage_12ep.py")
    cfg.model.num_classes = 7
    again = from_plain(to_plain(OmegaConf.masked_copy(cfg, ["model"])))
    assert str(build_on_meta(again)) == str(build_on_meta(cfg))


def test_names_and_dataclass_objects():
    nodes = {
        "norm": nn.LayerNorm,
        "spec": {"p3": ShapeSpec(channels=8, stride=4)},
        "sizes": (1, 2.5, None, True),
        "groups": L(QueryGroups)(one2one=3),
    }
    cfg = OmegaConf.create(nodes, flags={"allow_objects": True})
    plain = to_plain(cfg)
    assert plain["norm"] == {"_name_": "torch.nn.LayerNorm"}
    assert plain["spec"]["p3"] == {
        "_name_": "detectron2.layers.ShapeSpec",
        "_fields_": {"channels": 8, "height": None, "width": None, "stride": 4},
    }
    assert plain["sizes"] == [1, 2.5, None, True]
    again = from_plain(json.loads(json.dumps(plain)))
    assert again.norm is nn.LayerNorm
    assert OmegaConf.to_object(again.spec.p3) == ShapeSpec(channels=8, stride=4)
    assert instantiate(again.groups) == QueryGroups(one2one=3)


def test_interpolations_are_resolved():
    cfg = OmegaConf.create({"a": {"n": 3}, "b": {"n": "${a.n}", "m": "${..a.n}"}})
    assert to_plain(cfg.b) == {"n": 3, "m": 3}


class NotPlain:
    pass


@pytest.mark.parametrize("value", [NotPlain(), lambda: 0, {1, 2}])
def test_what_cannot_be_written_is_named(value):
    with pytest.raises(ConfigError, match=r"deep\.thing: "):
        to_plain({"deep": {"thing": value}})


ATTACKS = {
    "a function of the system": {"_target_": "os.system", "command": "touch {0}"},
    "by another module's import": {"_target_": "detrex.modeling.criterion.torch.os.system", "command": "touch {0}"},
    "by a loader of programs": {"_target_": "detectron2.config.LazyConfig.load", "filename": "{0}"},
    "by our own loader": {"_target_": "detrex.config.load_config", "path": "{0}"},
    "by a writer of files": {"_target_": "detrex.data.datasets.shapes.make_demo_data", "folder": "{0}"},
    "by a name made on the way": {
        "_target_": {"_target_": "detectron2.utils.registry.locate", "name": "os.system"},
        "command": "touch {0}",
    },
    "by a partial": {"_target_": "functools.partial", "func": {"_name_": "os.system"}},
    "by a hook of every module": {"_target_": "torch.nn.modules.module.register_module_forward_hook", "hook": None},
    "by a function of torch": {"_target_": "torch.nn.functional.dropout", "input": 1},
    "by another class of torch": {"_name_": "torch.nn.modules.module._IncompatibleKeys"},
    "by a script of a project": {"_target_": "projects.h_deformable_detr.train_net.main"},
    "by a name of a million letters": {"_target_": "torch.nn." + "a" * 1_000_000},
    "by a name of many parts": {"_target_": "torch" + ".nn" * 100_000},
    "by a key that is no text": {1: 2},
    "as a value beside others": {"_name_": "torch.nn.Linear", "in_features": 1},
    "as a value": {"_name_": "subprocess.Popen"},
    "as a value with fields": {"_name_": "subprocess.Popen", "_fields_": {"args": ["touch", "{0}"]}},
    "by a method": {"_target_": "torch.nn.Module.register_forward_hook", "self": None},
    "by a module": {"_target_": "detrex.modeling.criterion"},
    "by a built-in": {"_target_": "builtins.eval", "source": "1"},
    "by attributes of a class": {"_target_": "detrex.modeling.SetCriterion.__subclasses__"},
    "by evaluation": {"_target_": "torch.nn.Linear", "in_features": "${{oc.env:HOME}}"},
    "in a list": [[{"_target_": "os.system"}]],
    "not a name": {"_target_": 5},
    "not plain": {"_name_": "torch.nn.Linear", "_fields_": {"in_features": 1}},
}


def filled(value, file):
    if isinstance(value, dict):
        return {key: filled(item, file) for key, item in value.items()}
    if isinstance(value, list):
        return [filled(item, file) for item in value]
    return value.format(file) if isinstance(value, str) else value


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_file_calls_nothing_but_parts_of_detectors(attack, tmp_path):
    proof = tmp_path / "proof.py"
    with pytest.raises(ConfigError, match=r"^model\.backbone"):
        from_plain({"model": {"backbone": filled(ATTACKS[attack], proof)}})
    assert not proof.exists()


def test_functions_need_permission():
    """They could do anything to the process; only two that make stages of a ResNet are known."""
    plain = to_plain({"activation": nn.functional.gelu})
    with pytest.raises(ConfigError, match=r"torch\._C\._nn\.gelu is not among"):
        from_plain(plain)
    assert from_plain(plain, allow=["torch._C._nn"]).activation is nn.functional.gelu


def test_nothing_is_imported_before_all_is_checked(tmp_path, monkeypatch):
    (tmp_path / "first.py").write_text("raise SystemExit('ran')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match=r"b\._target_: os\.system is not among"):
        from_plain({"a": {"_target_": "first.Part"}, "b": {"_target_": "os.system"}}, allow=["first"])
    with pytest.raises(ConfigError, match=r"b\.0: a set is no plain value"):
        from_plain({"a": {"_target_": "first.Part"}, "b": [{1}]}, allow=["first"])
    assert "first" not in sys.modules


def nested(levels: int) -> list:
    """A list of which each level holds the one below twice: 2**levels values in a few objects."""
    value: list = []
    for _ in range(levels):
        value = [value, value]
    return value


def test_configs_without_an_end():
    endless: dict = {}
    endless["again"] = endless
    chain: list = []
    for _ in range(5000):
        chain = [chain]
    for name, value in {"wide": nested(40), "endless": endless, "deep": chain, "many": [0] * 200_000}.items():
        with pytest.raises(ConfigError, match=rf"^{name}.*: more than 100000 values, or nested more than 50 deep"):
            from_plain({name: value})
    with pytest.raises(ConfigError, match="a int is no plain value"):
        from_plain({"a": 10**5000})


def test_nothing_else_is_imported(tmp_path, monkeypatch):
    (tmp_path / "my_parts.py").write_text("from torch import nn\nclass Part(nn.Identity):\n    pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    data = {"model": {"_target_": "my_parts.Part"}}
    with pytest.raises(ConfigError, match=r"model\._target_: my_parts\.Part is not among .* add its package to allow"):
        from_plain(data)
    assert "my_parts" not in sys.modules
    assert type(instantiate(from_plain(data, allow=["my_parts"]).model)).__name__ == "Part"
    assert type(instantiate(from_plain(data, allow=["my_parts.Part"]).model)).__name__ == "Part"
    sys.modules.pop("my_parts")


def test_a_checkpoint_that_would_run_a_command(tmp_path):
    proof = tmp_path / "proof"
    mapper = {"_target_": "detrex.data.DetrDatasetMapper", "augmentation": [], "is_train": False}
    config = {
        "model": {"_target_": "os.system", "command": f"touch {proof}"},
        "dataloader": {"test": {"mapper": mapper}},
    }
    metadata = {"class_names": ["a"], "config": config}
    Checkpointer(nn.Linear(1, 1), str(tmp_path), metadata=metadata).save("evil")
    with pytest.raises(ConfigError, match=r"evil\.pth: the config in it: model\._target_: os\.system is not among"):
        Detector.from_checkpoint(tmp_path / "evil.pth", device="cpu")
    assert not proof.exists()
