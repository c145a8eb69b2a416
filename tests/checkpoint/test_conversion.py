"""Files rewritten in other layouts: by name and shape all that the published ones hold, and the same outputs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.config import instantiate

from detrex.checkpoint import CheckpointError, class_names, conversion, read_checkpoint, unpickling
from detrex.checkpoint.conversion import convert, find_architecture, largest_difference
from detrex.checkpoint.dialects import detect_dialect, to_ours
from detrex.cli.convert import PUBLISHED, main
from detrex.config import load_config
from detrex.config.instantiation import build_on_meta
from detrex.inference.detector import Detector
from tests.checkpoint.layouts import layout, published_state
from tests.tiny import randomize

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def small_files(monkeypatch):
    """The files of these tests are small because each tensor repeats one number, which readers refuse."""
    monkeypatch.setattr(unpickling, "SLACK", 1 << 32)


def save(path: Path, state: dict[str, torch.Tensor], **beside) -> str:
    torch.save({"model": state, **beside}, path)
    return str(path)


def shapes(path: str | Path) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in read_checkpoint(str(path))["model"].items()}


@pytest.mark.parametrize("variant", ["multi_scale", "box_refine", "two_stage"])
@pytest.mark.parametrize("source", ["dd", "detrex", "mmdet", "mmdet2"])
def test_names_and_shapes_of_the_published_files(source, variant, tmp_path):
    """All of them, the repetitions and the 91 classes included: the original code loads such a file strictly."""
    file = save(tmp_path / "source.pth", published_state(source, variant))
    convert(file, str(tmp_path / "official.pth"), layout="official")
    assert shapes(tmp_path / "official.pth") == layout("dd", variant)
    convert(str(tmp_path / "official.pth"), str(tmp_path / "detrex.pth"), layout="detrex")
    # Of the released files, detrex's also hold the loss's class weights, which are no part of the model.
    expected = {name: shape for name, shape in layout("detrex", variant).items() if not name.startswith("criterion.")}
    assert shapes(tmp_path / "detrex.pth") == expected


@pytest.mark.parametrize("variant", ["r50_300", "swin_t_300", "r50_abl_plain", "r50_abl_onestage"])
def test_names_and_shapes_of_h_detr(variant, tmp_path):
    state = published_state("hdetr", variant)
    convert(save(tmp_path / "official.pth", state), str(tmp_path / "ours.pth"))
    convert(str(tmp_path / "ours.pth"), str(tmp_path / "again.pth"), layout="official")
    again = read_checkpoint(str(tmp_path / "again.pth"))["model"]
    assert {name: value.shape for name, value in again.items()} == {name: value.shape for name, value in state.items()}
    changed = {name for name, value in state.items() if not torch.equal(again[name], value)}
    assert all("class_embed" in name for name in changed)  # whose rows of no class are no longer known


@pytest.mark.parametrize("config", sorted(PUBLISHED.values()))
def test_published_architectures_are_found_by_their_tensors(config):
    model = build_on_meta(load_config(ROOT / config))
    state = {name: torch.zeros(()).expand(value.shape) for name, value in model.state_dict().items()}
    if "NoRefinement" not in str(type(model.transformer.decoder.refinement)):
        name = "transformer.decoder.heads.1.bbox_embed.layers.2.weight"
        state[name] = torch.ones(()).expand(state[name].shape)
    assert find_architecture(state, PUBLISHED) == config


def test_architectures_that_nobody_published():
    state = published_state("dd", "single_scale")
    ours = to_ours(detect_dialect(state), state).state
    assert find_architecture(ours, PUBLISHED).endswith("single_scale_50ep.py")
    with pytest.raises(CheckpointError, match=r"DC5 have the same tensors: say by --config-file"):
        find_architecture(ours, PUBLISHED, exact=True)
    ours["transformer.encoder.layers.0.ffn.linear1.bias"] = torch.zeros(7)
    with pytest.raises(CheckpointError, match="of no published model: give the config"):
        find_architecture(ours, PUBLISHED)


# ------------------------------------------------------------------------------------------------- the same outputs
SMALL = """
from detrex.config import get_config

model = get_config("projects/deformable_detr/configs/deformable_detr_r50_{variant}50ep.py").model
model.transformer.embed_dim = 32
model.transformer.encoder.num_layers = 1
model.transformer.encoder.feedforward_dim = 48
model.transformer.decoder.num_layers = 2
model.transformer.queries.groups.one2one = 15
"""


@pytest.fixture(params=["", "with_box_refinement_", "two_stage_"], ids=["plain", "refinement", "two_stage"])
def small(request, tmp_path):
    """A config, and a checkpoint of its model with random weights."""
    config = tmp_path / "config.py"
    config.write_text(SMALL.format(variant=request.param))
    model = instantiate(load_config(config).model)
    randomize(model)
    return str(config), save(tmp_path / "ours.pth", model.state_dict(), metadata={"class_names": ["a"] * 80})


def test_outputs_are_the_same_in_every_layout(small, tmp_path):
    config, ours = small
    for name, target in (("official", "o.pth"), ("detrex", "d.safetensors"), ("hf", "folder")):
        result = convert(ours, str(tmp_path / target), layout=name, config_file=config, verify=True)
        assert result.difference == 0
        convert(str(tmp_path / target), str(tmp_path / f"{name}.safetensors"))
        back = read_checkpoint(str(tmp_path / f"{name}.safetensors"))["model"]
        assert all(torch.equal(back.pop(key), value) for key, value in torch.load(ours)["model"].items())
        assert not back
    rows = {name: shapes(tmp_path / name)["class_embed.0.bias"] for name in ("o.pth", "d.safetensors")}
    assert rows == {"o.pth": (91,), "d.safetensors": (80,)}


def test_verification_sees_one_number(small, tmp_path):
    config, ours = small
    state = torch.load(ours)["model"]
    name = "transformer.decoder.layers.1.self_attn_norm.weight"
    state[name] = state[name] + torch.tensor([0.1] + [0.0] * 31)
    other = save(tmp_path / "other.pth", state)
    assert largest_difference(load_config(config), ours, other) > 1e-4


def test_a_wrong_table_is_seen(small, tmp_path, monkeypatch):
    config, ours = small
    right = conversion.from_ours

    def wrong(*args, **kwargs):
        translation = right(*args, **kwargs)
        names = [f"transformer.decoder.layers.1.norm{i}.weight" for i in (1, 2)]
        state = translation.state
        state[names[0]], state[names[1]] = state[names[1]], state[names[0]]
        return translation

    monkeypatch.setattr(conversion, "from_ours", wrong)
    assert convert(ours, str(tmp_path / "o.pth"), layout="official", config_file=config, verify=True).difference > 1e-4


# --------------------------------------------------------------------------------------------------- what goes along
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_class_names_travel(suffix, tmp_path):
    names = tuple(f"class {i}" for i in range(80))
    state = {name: value.clone() for name, value in published_state("mmdet2", "multi_scale").items()}
    torch.save({"state_dict": state, "meta": {"CLASSES": names, "epoch": 50}}, tmp_path / "mmdet.pth")
    result = convert(str(tmp_path / "mmdet.pth"), str(tmp_path / f"ours{suffix}"))
    assert class_names(read_checkpoint(str(tmp_path / f"ours{suffix}"))) == names
    assert any(line == "left out, beside the weights: meta" for line in result.report)


def test_a_config_goes_into_our_layout_and_travels(small, tmp_path):
    _, ours = small
    text = Path(small[0]).read_text() + 'dataloader = get_config("common/data/custom.py").dataloader\n'
    text += "dataloader.test.mapper.augmentation = []\n"
    config = tmp_path / "whole.py"
    config.write_text(text + 'train = get_config("common/train.py").train\n')
    convert(ours, str(tmp_path / "with.pth"), config_file=str(config))
    convert(str(tmp_path / "with.pth"), str(tmp_path / "with.safetensors"))
    image = np.zeros((160, 200, 3), np.uint8)
    expected = Detector.from_checkpoint(ours, config_file=config, device="cpu").predict(image, threshold=0)
    for name in ("with.pth", "with.safetensors"):
        found = Detector.from_checkpoint(tmp_path / name, device="cpu").predict(image, threshold=0)
        assert torch.equal(found.pred_boxes.tensor, expected.pred_boxes.tensor)
        assert found.names[0] == "a"


def test_91_classes_are_kept_if_asked_for(tmp_path):
    source = save(tmp_path / "source.pth", published_state("dd", "two_stage"))
    convert(source, str(tmp_path / "80.pth"))
    convert(source, str(tmp_path / "91.pth"), classes=91)
    name = "transformer.decoder.heads.3.class_embed.bias"
    assert shapes(tmp_path / "80.pth")[name] == (80,)
    assert shapes(tmp_path / "91.pth")[name] == (91,)


def test_a_custom_number_of_classes_stays(tmp_path):
    state = published_state("detrex", "multi_scale")
    state = {name: value[:7] if "class_embed" in name else value for name, value in state.items()}
    convert(save(tmp_path / "source.pth", state), str(tmp_path / "o.pth"), layout="official")
    assert shapes(tmp_path / "o.pth")["class_embed.0.weight"] == (7, 256)


# -------------------------------------------------------------------------------------------------- the command line
@pytest.fixture
def tool(capsys):
    def run(*args: object) -> tuple[int, str]:
        code = main([*map(str, args)])
        captured = capsys.readouterr()
        return code, captured.out + captured.err

    return run


def test_tool(small, tool, tmp_path):
    config, ours = small
    code, text = tool(ours, tmp_path / "new" / "o.pth", "--to", "official", "--verify", "--config-file", config)
    assert code == 0, text
    assert "to official: " in text
    assert "class rows" in text
    assert "largest difference of the outputs of both files: 0\n" in text
    assert (tmp_path / "new" / "o.pth").exists()


def test_tool_writes_over_nothing_unless_told(tool, tmp_path):
    source = save(tmp_path / "source.pth", published_state("dd", "multi_scale"))
    target = tmp_path / "target.pth"
    target.write_text("dear")
    code, text = tool(source, target)
    assert (code, target.read_text()) == (2, "dear")
    assert f"error: {target} exists; --force writes over it" in text
    assert tool(source, target, "--force")[0] == 0
    assert len(shapes(target)) == 549 + 12


def test_tool_names_what_is_wrong(tool, tmp_path):
    state = published_state("dd", "multi_scale")
    source = save(tmp_path / "source.pth", state)
    extra = save(tmp_path / "extra.pth", state | {"mask_head.weight": torch.zeros(2)})
    resnet = dict.fromkeys(("conv1.weight", "layer1.0.conv1.weight"), torch.zeros(1))
    backbone = save(tmp_path / "backbone.pth", resnet)
    for args, message in (
        ((source, tmp_path / "x.txt"), "must end in .pth or .safetensors"),
        ((source, tmp_path / "x.pth", "--to", "hf"), "the Hugging Face layout is a folder"),
        ((tmp_path / "absent.pth", tmp_path / "x.pth"), "absent.pth not found"),
        ((extra, tmp_path / "x.pth"), "no rule for 1 tensors: mask_head.weight"),
        ((backbone, tmp_path / "x.pth"), "is not of a whole detector"),
    ):
        code, text = tool(*args)
        assert code == 2
        assert message in text
        assert not (tmp_path / "x.pth").exists()
    code, text = tool(extra, tmp_path / "x.pth", "--drop-unknown")
    assert code == 0
    assert "1 have no rule and were left out: mask_head.weight" in text


def test_an_interrupted_write_leaves_nothing(tmp_path, monkeypatch):
    source = save(tmp_path / "source.pth", published_state("dd", "multi_scale"))

    def fail(data, file):
        file.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(OSError, match="disk full"):
        convert(source, str(tmp_path / "target.pth"))
    assert [path.name for path in tmp_path.iterdir()] == ["source.pth"]
