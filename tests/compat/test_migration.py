"""``detrex migrate``: what it prints is a config of ours that says the same."""

from __future__ import annotations

from pathlib import Path

import pytest

from detrex.cli.migrate import main
from detrex.compat.migration import edits
from detrex.compat.names import is_original_config
from detrex.config import load_config, validate_config

CONFIGS = Path(__file__).parent / "configs"


@pytest.mark.parametrize(
    ("name", "base"),
    [
        ("two_stage", "deformable_detr_r50_two_stage_50ep"),
        ("hybrid_one_stage", "h_deformable_detr_r50_two_stage_12ep"),
        ("hybrid_swin", "h_deformable_detr_swin_tiny_two_stage_12ep"),
    ],
)
def test_what_is_printed_is_the_rewritten_config(name, base, tmp_path):
    new, overrides = tmp_path / "new.py", ["model.num_classes=7", "optimizer.lr=0.001"]
    assert main([str(CONFIGS / f"{name}.py"), "-o", str(new), *overrides]) == 0
    text, cfg = new.read_text(), load_config(new)
    assert f"configs/{base}.py" in text
    assert len(text.splitlines()) < 60
    assert not is_original_config(new)
    validate_config(cfg)
    rewritten = load_config(CONFIGS / f"{name}.py", overrides)
    assert list(edits(cfg, rewritten, set())) == []
    assert list(edits(rewritten, cfg, set())) == []
    assert all(word in text for note in rewritten.rewritten.notes for word in note.split())


def test_the_command_line(capsys, tmp_path):
    assert main([str(CONFIGS / "two_stage.py"), "model.num_classs=7"]) == 2
    assert "did you mean model.num_classes?" in capsys.readouterr().err
    ours = tmp_path / "ours.py"
    ours.write_text("model = {}\n")
    assert main([str(ours)]) == 2
    assert "there is nothing to rewrite" in capsys.readouterr().err
