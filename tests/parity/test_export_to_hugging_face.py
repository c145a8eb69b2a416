"""What tools/convert_checkpoint.py --to hf writes, loaded by transformers."""

from __future__ import annotations

import json

import pytest
import torch

pytest.importorskip("transformers", reason="needs the extra detrex[parity]")
pytest.importorskip("timm", reason="the published files' backbone is timm's")

from detrex.checkpoint.conversion import convert
from tests.parity.pairs import NUM_CLASSES, pair
from tests.parity.test_hugging_face import assert_same_predictions, batch

CONFIG = """
from detrex.config import get_config

model = get_config("projects/deformable_detr/configs/deformable_detr_r50_{variant}50ep.py").model
model.transformer.queries.groups.one2one = 20
"""
CONFIGS = {"plain": "", "refine": "with_box_refinement_", "two_stage": "two_stage_"}


@pytest.mark.parametrize("variant", CONFIGS)
def test_transformers_loads_it_and_predicts_the_same(variant, tmp_path):
    from transformers import DeformableDetrForObjectDetection

    _, mine = pair(variant, tmp_path, full=True)
    (tmp_path / "config.py").write_text(CONFIG.format(variant=CONFIGS[variant]))
    names = [f"class {i}" for i in range(NUM_CLASSES)]
    torch.save({"model": mine.state_dict(), "metadata": {"class_names": names}}, tmp_path / "ours.pth")
    folder = tmp_path / "exported"
    convert(str(tmp_path / "ours.pth"), str(folder), layout="hf", config_file=str(tmp_path / "config.py"))

    theirs, info = DeformableDetrForObjectDetection.from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["mismatched_keys"]
    assert theirs.config.id2label == dict(enumerate(names))
    assert json.loads((folder / "config.json").read_text())["two_stage"] == (variant == "two_stage")
    assert_same_predictions(theirs.eval(), mine, batch((96, 160), (128, 100)))
