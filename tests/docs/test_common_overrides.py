"""docs/config.md: every common override works on the real configs, and its default is the one that is stated."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from detectron2.config import instantiate
from omegaconf import OmegaConf

from detrex.config import load_config, validate_config
from detrex.config.instantiation import meta_device

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "projects/deformable_detr/configs"
PAGE = (ROOT / "docs/config.md").read_text()
SECTION = PAGE.partition("## Common overrides")[2].partition("\n## ")[0]
ROWS = re.findall(r"^\|[^|]+\| `(\S+?)=(\S+)` \|(?: `(\S*)`)? \|$", SECTION, re.MULTILINE)


def config_of(key: str) -> Path:
    return (
        CONFIGS / f"{'custom_small' if key.startswith('dataloader.data.') else 'deformable_detr_r50_two_stage_50ep'}.py"
    )


def plain(value):
    """A value of a config or of the page in one form; hydra's numbers are YAML 1.2's."""
    value = OmegaConf.to_container(value) if OmegaConf.is_config(value) else value
    value = yaml.safe_load(value) if isinstance(value, str) and value else value
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


def test_no_row_of_the_table_is_passed_over():
    assert len(ROWS) == SECTION.count("=") > 50


@pytest.mark.parametrize(("key", "value", "default"), ROWS, ids=[row[0] for row in ROWS])
def test_override(key, value, default):
    before = load_config(config_of(key))
    if default:
        assert plain(OmegaConf.select(before, key)) == plain(default)
    cfg = load_config(config_of(key), [f"{key}={value}"])
    validate_config(cfg)
    assert plain(OmegaConf.select(cfg, key)) == plain(value) != plain(OmegaConf.select(before, key))
    if key.startswith("model."):
        with meta_device():
            instantiate(cfg.model)
