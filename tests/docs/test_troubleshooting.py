"""docs/troubleshooting.md: each message that the page quotes is what is printed."""

from __future__ import annotations

import json
import re
import sys
import types
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from detectron2.utils import comm
from stub_detector import write_config
from tiny import image_input, tiny_detector

from detrex.checkpoint import Checkpointer
from detrex.cli import doctor
from detrex.cli.train import main as run
from detrex.config import ConfigError, load_config
from detrex.engine.faults import explain
from detrex.engine.run_config import check_batch_size
from detrex_ops.backends import REFERENCE
from detrex_ops.self_test import self_test

ROOT = Path(__file__).parents[2]

PAGE = (ROOT / "docs/troubleshooting.md").read_text()
TWO_STAGE = "projects/deformable_detr/configs/deformable_detr_r50_two_stage_50ep.py"
CUSTOM = "projects/deformable_detr/configs/custom_small.py"


@dataclass
class Lab:
    """What a trigger may use; ``config`` is that of a small run whose data lie in ``folder/data``."""

    folder: Path
    config: Path
    monkeypatch: pytest.MonkeyPatch
    capsys: pytest.CaptureFixture[str]
    caplog: pytest.LogCaptureFixture

    def train(self, *arguments: str, config: str | Path | None = None) -> str:
        """What the command line prints of an error."""
        place = [f"train.output_dir={self.folder}/output"] if config else []
        run(["--config-file", str(config or self.config), *arguments, *place])
        return self.capsys.readouterr().err

    def edit_data(self, change: Callable[[dict], None]) -> None:
        path = self.folder / "data/data.json"
        content = json.loads(path.read_text())
        change(content)
        path.write_text(json.dumps(content))


TRIGGERS: dict[str, Callable[[Lab], str]] = {}


def error(title: str):
    """Register how the error with this heading on the page is made."""

    def register(function: Callable[[Lab], str]) -> Callable[[Lab], str]:
        TRIGGERS[title] = function
        return function

    return register


@pytest.fixture
def lab(tmp_path, monkeypatch, capsys, caplog) -> Lab:
    return Lab(tmp_path, write_config(tmp_path), monkeypatch, capsys, caplog)


@error("No compiled kernel")
def _(lab):
    lab.monkeypatch.setenv("DETREX_OPS", "reference")
    return "\n".join(map(str, doctor.operator()))


@error("A kernel that does not fit the machine")
def _(lab):
    def missing(arguments):
        raise RuntimeError("no kernel image is available for execution on the device")

    with pytest.raises(RuntimeError) as raised:
        self_test(replace(REFERENCE, name="cuda", forward=missing), torch.device("cpu"))
    return str(raised.value)


@error("torch and torchvision of different builds")
def _(lab):
    lab.monkeypatch.setitem(sys.modules, "torchvision", types.ModuleType("torchvision"))
    return "\n".join(map(str, doctor.packages()))


@error("An old detectron2")
def _(lab):
    lab.monkeypatch.setattr("detrex.engine.run_config.get_default_optimizer_params", lambda model, base_lr: [])
    return "\n".join(map(str, doctor.host()))


@error("No GPU")
def _(lab):
    lab.monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    return lab.train("train.device=cuda")


@error("More GPUs than there are")
def _(lab):
    lab.monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    return lab.train("--num-gpus", "8", "train.device=auto")


@error("A batch that cannot be shared")
def _(lab):
    lab.monkeypatch.setattr(comm, "get_world_size", lambda: 3)
    with pytest.raises(ConfigError) as raised:
        check_batch_size(load_config(TWO_STAGE))
    return str(raised.value)


@error("A key that does not exist")
def _(lab):
    return lab.train("optimizer.lrr=1e-4")


@error("A value that is still to be given")
def _(lab):
    lab.config.write_text(lab.config.read_text() + "\ntrain.init_checkpoint = '???'\n")
    return lab.train()


@error("Parts that contradict each other")
def _(lab):
    override = "model.transformer.decoder.refinement._target_=detrex.modeling.NoRefinement"
    return lab.train(override, f"dataloader.data.root={lab.folder}/data", config=CUSTOM)


@error("COCO is not there")
def _(lab):
    lab.monkeypatch.delenv("DETECTRON2_DATASETS", raising=False)
    return lab.train(config=TWO_STAGE)


@error("No data set given")
def _(lab):
    return lab.train(config=CUSTOM)


@error("A folder of no known format")
def _(lab):
    (lab.folder / "photos").mkdir()
    return lab.train(f"dataloader.data.root={lab.folder}/photos", config=CUSTOM)


@error("A number of classes that is not that of the data")
def _(lab):
    return lab.train("model.num_classes=3")


@error("A class id that is not defined")
def _(lab):
    lab.edit_data(lambda content: content["annotations"][0].update(category_id=6))
    return lab.train()


@error("A class out of range at a training step")
def _(lab):
    sample = image_input(64, 64, boxes=1, num_classes=1)
    sample["instances"].gt_classes += 5
    with pytest.raises(ValueError, match="ground-truth") as raised:
        tiny_detector("plain").train()([sample])
    return str(raised.value)


@error("Boxes without area")
def _(lab):
    sample = image_input(64, 64, boxes=2)
    sample["instances"].gt_boxes.tensor[0, 2:] = sample["instances"].gt_boxes.tensor[0, :2]
    tiny_detector("plain").train()([sample])
    return lab.caplog.text


@error("Images that cannot be read")
def _(lab):
    for name in ("3.png", "8.png"):
        (lab.folder / "data" / name).write_bytes(b"not an image")
    return lab.train("dataloader.train.max_broken_images=1")


@error("A loss that is not finite")
def _(lab):
    return lab.train("model.nan_from=5")


@error("Out of memory")
def _(lab):
    return str(explain(MemoryError(), "iteration 7", [image_input(800, 1333, boxes=9)], device=torch.device("cpu")))


@error("A data worker that was killed")
def _(lab):
    died = RuntimeError("DataLoader worker (pid 1234) is killed by signal: Killed. ")
    return str(explain(died, "iteration 7", None, device=torch.device("cpu")))


@error("A checkpoint that does not fit")
def _(lab):
    torch.save({"model": tiny_detector("plain", num_classes=80).state_dict()}, lab.folder / "coco.pth")
    with pytest.raises(ValueError, match="fit") as raised:
        Checkpointer(tiny_detector("plain", num_classes=3)).load(str(lab.folder / "coco.pth"))
    return str(raised.value)


@error("Nothing sound to resume from")
def _(lab):
    (lab.folder / "output").mkdir()
    (lab.folder / "output/model_0000099.pth").write_bytes(b"cut off")
    return lab.train("--resume")


def quoted(title: str) -> str:
    """The message below the heading."""
    section = re.search(rf"^### {re.escape(title)}\n(.*?)(?=^##|\Z)", PAGE, re.DOTALL | re.MULTILINE)[1]
    return re.search(r"^```text\n(.*?)^```", section, re.DOTALL | re.MULTILINE)[1]


def words(text: str) -> str:
    """Without the page's line breaks."""
    return " ".join(text.split())


def test_every_error_on_the_page_is_made_here():
    assert re.findall(r"^### (.+)$", PAGE, re.MULTILINE) == list(TRIGGERS)
    assert len(TRIGGERS) == 23


@pytest.mark.parametrize("title", TRIGGERS)
def test_the_message_is_as_quoted(lab, title):
    pattern = ".*".join(re.escape(part.strip()) for part in words(quoted(title)).split("..."))
    printed = words(TRIGGERS[title](lab))
    assert re.search(pattern, printed), printed
