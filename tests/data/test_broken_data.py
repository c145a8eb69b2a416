"""Every damage of ``damages``: reported by name, survived, never trained on silently wrong, and mended by --fix."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from coco_files import DATA_CONFIGS
from damages import DAMAGES, Damage
from detectron2.config import LazyConfig
from detectron2.data import DatasetCatalog, MetadataCatalog
from folders import CLASSES, HEIGHT, WIDTH, WRITERS, pictures
from omegaconf import DictConfig, OmegaConf

from detrex.data import KINDS, DatasetError, DetrDatasetMapper, Finding, check_source, open_folder, prepare_data
from detrex.data.cleaning import write_fixed_copy
from detrex.data.dataset_check import CheckedFiles, check_files
from detrex.data.formats.reader import open_data

NUM_QUERIES = 30
# Seen only by reading every file and comparing the pictures, which training does not do.
SEEN_BY_THE_CHECK_ALONE = {"leakage", "repeated-file", "damaged-image"}


@pytest.fixture
def broken(request, tmp_path) -> SimpleNamespace:
    """A damaged data set on disk."""
    damage: Damage = request.param
    root = tmp_path / "data"
    WRITERS[damage.layout](root, pictures())
    damage.apply(root)
    return SimpleNamespace(damage=damage, root=root)


each_damage = pytest.mark.parametrize("broken", DAMAGES, ids=lambda d: d.apply.__name__, indirect=True)


def config(root: Path, output: Path) -> DictConfig:
    cfg = OmegaConf.create({"model": {"num_classes": 80}, "train": {"output_dir": str(output)}})
    cfg.dataloader = LazyConfig.load(str(DATA_CONFIGS / "custom.py")).dataloader
    cfg.dataloader.data.root = str(root)
    return cfg


def check(cfg: DictConfig) -> CheckedFiles:
    source = check_source(open_data(cfg.dataloader.data))
    return check_files(source, num_workers=1, num_queries=NUM_QUERIES, max_dets=100)


def fingerprint(root: Path) -> dict[str, str]:
    return {
        str(p.relative_to(root)): hashlib.sha256(p.read_bytes()).hexdigest() if p.is_file() else "no file"
        for p in sorted(root.rglob("*"))
    }


def good_boxes() -> dict[str, set[tuple]]:
    """Image name without suffix -> (class name, x1, y1, x2, y2) of the undamaged set."""
    return {p.name: {(CLASSES[c], x, y, x + w, y + h) for c, (x, y, w, h) in p.boxes} for p in pictures()}


def test_the_corpus_is_large_and_covers_every_kind():
    assert len(DAMAGES) >= 40
    assert {d.layout.split("_")[0] for d in DAMAGES} == {"coco", "yolo", "voc"}
    assert {d.kind for d in DAMAGES} == set(KINDS)


def report(cfg: DictConfig) -> tuple[tuple[Finding, ...], CheckedFiles | None]:
    """All findings, and the checked data unless they cannot even be opened."""
    try:
        files = check(cfg)
    except DatasetError as e:
        return e.findings, None
    return files.checked.findings, files


@each_damage
def test_reported_by_name(broken, tmp_path):
    findings, files = report(config(broken.root, tmp_path / "out"))
    damage = broken.damage
    assert [f for f in findings if f.kind == damage.kind and damage.text in f"{f.where}: {f.message}"], findings
    is_error = any(f.is_error for f in findings)
    assert is_error == (files is None or not files.checked.trainable)
    assert is_error or KINDS[damage.kind].severity == "warning"
    for finding in findings:
        assert str(finding).isprintable()  # whatever the names hold


def map_image(mapper: DetrDatasetMapper, record: dict) -> dict | str:
    """The sample, or why there is none."""
    try:
        return mapper(record)
    except (OSError, ValueError) as e:
        return str(e)


@each_damage
def test_never_trained_on_silently_wrong(broken, tmp_path):
    """Training refuses the data, or refuses the image by name, or sees exactly the boxes that are right."""
    cfg, kind = config(broken.root, tmp_path / "out"), broken.damage.kind
    if refused := refusal(cfg):
        assert refused.findings
        return
    names = MetadataCatalog.get("custom_val").thing_classes
    assert cfg.model.num_classes == len(names)
    good, mapper = good_boxes(), DetrDatasetMapper(augmentation=[], is_train=True)
    noticed = False
    for record in [r for split in ("train", "val") for r in DatasetCatalog.get(f"custom_{split}")]:
        stem = Path(record["file_name"]).stem.strip()
        sample = map_image(mapper, record)
        if isinstance(sample, str):
            assert stem in sample
            noticed = True
            continue
        boxes = sample["instances"].gt_boxes.tensor
        assert (boxes[:, 2:] > boxes[:, :2]).all()
        assert (boxes >= 0).all()
        assert (boxes <= torch.tensor([WIDTH, HEIGHT, WIDTH, HEIGHT])).all()
        seen = {(names[c], *b) for c, b in zip(sample["instances"].gt_classes, boxes.round().tolist(), strict=True)}
        if stem not in ("p0", "p6", "copy"):  # where damages strike
            assert seen == good[stem] or (kind == "unused-class" and seen < good[stem])
    assert noticed or KINDS[kind].severity == "warning" or kind in SEEN_BY_THE_CHECK_ALONE


def refusal(cfg: DictConfig) -> DatasetError | None:
    try:
        prepare_data(cfg)
    except DatasetError as e:
        return e
    return None


@each_damage
def test_fixed_copy_passes_and_the_original_is_untouched(broken, tmp_path):
    before = fingerprint(broken.root)
    _, files = report(config(broken.root, tmp_path / "out"))
    if files is None:
        return  # nothing to copy from
    stuck = [f for f in files.checked.findings if f.is_error and KINDS[f.kind].fix is None]
    nothing_left = broken.damage.apply.__name__ in ("training_json_as_val_json", "yaml_with_one_folder_for_both")
    if stuck or nothing_left:
        with pytest.raises(DatasetError):
            write_fixed_copy(files, tmp_path / "fixed")
        assert not (tmp_path / "fixed").exists()
    else:
        copy = write_fixed_copy(files, tmp_path / "fixed")
        fixed = check_files(check_source(open_folder(copy)), num_workers=1, num_queries=NUM_QUERIES).checked
        assert fixed.trainable
        assert not [f for f in fixed.findings if KINDS[f.kind].fix is not None]
    assert fingerprint(broken.root) == before
    assert set(os.listdir(tmp_path)) <= {"data", "elsewhere", "fixed"}
