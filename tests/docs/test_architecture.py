"""The examples of docs/architecture.md, "Where do I ...", run as they are shown."""

from __future__ import annotations

import json
import re
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from coco_files import coco_content
from detectron2.config import instantiate
from stub_detector import write_config
from tiny import image_input

from detrex.__main__ import COMMANDS
from detrex.__main__ import main as program
from detrex.data import open_folder
from detrex.data.formats import reader

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
SETUP, *EXAMPLES = re.split(r"^### \.\.\. ", PAGE[PAGE.index("## Where do I") :], flags=re.MULTILINE)
MODULE = "architecture_example"
BY_TITLE = {text.splitlines()[0].rstrip("?"): text for text in EXAMPLES}


@pytest.fixture
def run_example(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], dict[str, Any]]:
    """Run an example, after the lines that all share, as a module that can be imported; returns its names."""

    def run(title: str) -> dict[str, Any]:
        module = types.ModuleType(MODULE)
        monkeypatch.setitem(sys.modules, MODULE, module)
        for text in (SETUP, BY_TITLE[title]):
            for code in re.findall(r"^```python\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL):
                exec(compile(code, f"docs/architecture.md, {title}", "exec"), vars(module))
        return vars(module)

    return run


def train_step(cfg) -> dict[str, float]:
    """Losses of one step of a config's model, which all have gradients."""
    torch.manual_seed(0)
    cfg.model.num_classes = 3
    model = instantiate(cfg.model).train()
    losses = model([image_input(96, 128, boxes=2)])
    sum(losses.values()).backward()
    return {name: float(loss) for name, loss in losses.items()}


def test_every_example_is_run_and_names_a_file_that_exists():
    tested = set(re.findall(r'run_example\("([^"]+)"', Path(__file__).read_text(encoding="utf-8")))
    assert tested == set(BY_TITLE)
    for title, text in BY_TITLE.items():
        (path,) = re.findall(r"^Open `([^`]+)`", text, flags=re.MULTILINE)
        assert (ROOT / path).exists(), f"{title}: {path}"


def test_add_a_backbone(run_example):
    cfg = run_example("add a backbone")["cfg"]
    assert isinstance(instantiate(cfg.model.backbone), torch.nn.Module)
    assert train_step(cfg)["loss_bbox"] > 0


def test_add_a_matcher(run_example):
    example = run_example("add a matcher")
    calls: list[int] = []
    original = example["CenterMatcher"].cost
    example["CenterMatcher"].cost = lambda *arguments: calls.append(1) or original(*arguments)
    assert train_step(example["cfg"])["loss_bbox"] > 0
    assert calls


def test_add_a_loss(run_example):
    losses = train_step(run_example("add a loss")["cfg"])
    assert losses["loss_center"] > 0
    assert losses.keys() >= {"loss_center_0", "loss_center_enc"}


def test_add_a_checkpoint_dialect(run_example):
    example = run_example("add a checkpoint dialect")
    assert example["MINE"].matches(example["file"])
    assert example["renamed"].keys() == {"transformer.level_embeds", "transformer.encoder.weight"}


def test_add_a_data_format(run_example, monkeypatch, tmp_path):
    monkeypatch.setattr("detrex.data.formats.reader.FORMATS", dict(reader.FORMATS))
    run_example("add a data format")
    content = coco_content()
    (tmp_path / "boxes.jsonl").write_text(json.dumps(content), encoding="utf-8")
    source = open_folder(str(tmp_path))
    assert source.format == "JSON lines"
    assert source.splits["train"].content == content


def test_add_a_hook(run_example, tmp_path):
    assert run_example("add a hook")["cfg"].train.hooks
    config = write_config(tmp_path)
    with config.open("a", encoding="utf-8") as file:
        file.write(f"from {MODULE} import GradientNorm\ntrain.hooks = [L(GradientNorm)()]\n")
    assert program(["train", "--config-file", str(config), "train.max_iter=2", "train.eval_period=0"]) == 0
    rows = [json.loads(line) for line in (tmp_path / "output/metrics.json").read_text().splitlines()]
    assert rows[-1]["gradient_norm"] > 0


def test_add_a_metric(run_example):
    evaluator = instantiate(run_example("add a metric")["cfg"].dataloader.evaluator)
    evaluator.reset()
    evaluator.process([{}], [{"instances": [1, 2]}])
    assert evaluator.evaluate() == {"count": {"detections": 2.0}}


def test_add_an_export_format(run_example, tmp_path):
    example = run_example("add an export format")
    example["cfg"].model.num_classes = 3
    program = example["export_program"](instantiate(example["cfg"].model).eval())
    example["save_graph"](program, tmp_path / "graph.txt")
    assert "grid_sampler" in (tmp_path / "graph.txt").read_text()


def test_add_a_command(run_example, monkeypatch, capsys):
    monkeypatch.setattr("detrex.__main__.COMMANDS", dict(COMMANDS))
    module = types.ModuleType("detrex.cli.count")
    vars(module).update(run_example("add a command"))
    monkeypatch.setitem(sys.modules, "detrex.cli.count", module)
    assert program(["count", "projects/deformable_detr/configs/custom_small.py"]) == 0
    assert int(capsys.readouterr().out) > 500_000
    assert program(["coutn"]) == 2
    assert "Did you mean count?" in capsys.readouterr().err


@pytest.mark.parametrize("title", BY_TITLE)
def test_examples_are_short(title):
    (code,) = re.findall(r"^```python\n(.*?)^```", BY_TITLE[title], flags=re.MULTILINE | re.DOTALL)
    assert len([line for line in code.splitlines() if line.strip()]) <= 15
