"""Every recognised layout gives the same records; splits that are made; paths and settings."""

from __future__ import annotations

import json
import logging
import os
import shutil
from pathlib import Path

import folders
import numpy as np
import pytest
from coco_files import ROOT
from detectron2.data import DatasetCatalog
from folders import CLASSES, HEIGHT, WIDTH, WRITERS, Picture, pictures, voc_xml, write_coco, write_voc, write_yolo
from PIL import Image
from test_broken_data import config, fingerprint

from detrex.cli.train import main as run
from detrex.data import CheckedData, DatasetError, DetrDatasetMapper, check_source, open_folder, prepare_data
from detrex.data.cleaning import write_fixed_copy
from detrex.data.dataset_check import check_files
from detrex.data.formats import split

CONFIG = ROOT / "projects" / "deformable_detr" / "configs" / "custom_small.py"
YOLO_DIGITS = 1e-4  # pixels: half of the sixth digit of 80
ALL_TRAIN = {"train": range(9)}
BCCD = next(
    (
        path
        for path in (
            Path(os.environ.get("DETECTRON2_DATASETS", "datasets")) / "bccd",
            ROOT.parent / "shared" / "data" / "bccd",
        )
        if path.is_dir()
    ),
    None,
)


def boxes_by_name(checked: CheckedData, part: str) -> dict[str, np.ndarray]:
    """Image name without suffix -> (N, 5): class id, x, y, width, height; sorted."""
    result = {}
    for record in checked.splits[part].records:
        rows = sorted([a["category_id"], *a["bbox"]] for a in record["annotations"])
        result[Path(record["file_name"]).stem] = np.array(rows).reshape(-1, 5)
    return result


@pytest.mark.parametrize("layout", WRITERS)
def test_every_layout_gives_the_same_records(layout, tmp_path):
    items = pictures()
    WRITERS[layout](tmp_path, items)
    checked = check_source(open_folder(tmp_path))
    expected_kinds = {"coco_roboflow": {"group-class"}, "coco_label_studio": {"bad-annotation-id"}}
    assert {f.kind for f in checked.findings} == expected_kinds.get(layout, set())
    assert checked.trainable
    for part, indices in (("train", range(6)), ("val", range(6, 9))):
        assert checked.splits[part].class_names == CLASSES
        found = boxes_by_name(checked, part)
        assert set(found) == {items[i].name for i in indices}
        for i in indices:
            expected = np.array(sorted([c, *box] for c, box in items[i].boxes), dtype=float)
            tolerance = YOLO_DIGITS if "yolo" in layout else 0
            np.testing.assert_allclose(found[items[i].name], expected, rtol=0, atol=tolerance)
    assert {r["height"] for r in checked.splits["train"].records} == {HEIGHT}


def test_voc_coordinates_from_zero(tmp_path):
    """A zero cannot stand in a file that counts from 1: then nothing is subtracted."""
    items = [Picture("a", pictures()[0].pixels, [(0, [-1, 4, 11, 6]), (1, [3, 4, 8, 8])])]
    write_voc(tmp_path, items, {"train": [0]})
    assert "<xmin>0</xmin>" in voc_xml(items[0])
    source = open_folder(tmp_path)
    assert source.notes == ("pixel coordinates count from 0, since a zero or a fraction occurs",)
    annotations = source.splits["train"].content["annotations"]
    assert [a["bbox"] for a in annotations] == [[0, 5, 10, 5], [4, 5, 7, 7]]


@pytest.mark.parametrize("layout", WRITERS)
def test_a_missing_split_is_made_reproducibly_and_written_down(layout, tmp_path, caplog):
    root = tmp_path / "data"
    WRITERS[layout](root, pictures(), ALL_TRAIN)
    before = fingerprint(root)
    runs = []
    for output, seed in (("a", 0), ("b", 0), ("c", 1)):
        cfg = config(root, tmp_path / output)
        cfg.dataloader.data.split_seed = seed
        with caplog.at_level(logging.INFO):
            prepare_data(cfg)
        parts = [{Path(r["file_name"]).stem for r in DatasetCatalog.get(f"custom_{s}")} for s in ("train", "val")]
        written = json.loads((tmp_path / output / "data" / "split.json").read_text())
        assert [{Path(n).stem for n in written[s]} for s in ("train", "val")] == parts
        assert (written["seed"], written["val_fraction"]) == (seed, 0.2)
        runs.append(parts)
    train, val = runs[0]
    assert len(val) == 2
    assert train | val == {p.name for p in pictures()}
    assert not train & val
    assert runs[1] == runs[0]
    assert runs[2] != runs[0]
    assert fingerprint(root) == before
    assert "has no validation split: 7 images train, 2 validate" in caplog.text


def test_a_made_split_keeps_identical_files_together_and_changes_little(tmp_path):
    items = pictures()
    items += [Picture(f"twin{i}", items[i].pixels, items[i].boxes) for i in range(9)]
    items += [Picture(f"q{i}", items[i].pixels[::-1], items[i].boxes) for i in range(3)]
    splits = []
    for name, count in (("small", 18), ("large", 21)):
        write_coco(tmp_path / name, items, {"train": range(count)})
        prepare_data(config(tmp_path / name, tmp_path / f"{name}_out"))
        splits.append(json.loads((tmp_path / f"{name}_out" / "data" / "split.json").read_text()))
    for i in range(9):
        sides = {f"{n}{i}.png" in splits[0]["val"] for n in ("p", "twin")}
        assert len(sides) == 1
    moved = set(splits[0]["val"]) - set(splits[1]["val"])
    assert len(moved) <= 4  # a new image may displace one pair, rarely two
    assert check_files(check_source(open_folder(tmp_path / "small")), num_workers=1).checked.trainable


def test_identical_files_reads_only_files_of_equal_length(tmp_path, monkeypatch):
    for name, data in (("b", b"12"), ("a", b"12"), ("c", b"34"), ("d", b"123")):
        (tmp_path / name).write_bytes(data)
    read, digest = [], split._digest
    monkeypatch.setattr(split, "_digest", lambda path: read.append(Path(path).name) or digest(path))
    paths = {name: str(tmp_path / name) for name in "abcd"}
    assert split.identical_files(paths) == {"a": "a", "b": "a", "c": "c", "d": "d"}
    assert read == ["a", "b", "c"]


def test_a_data_set_that_cannot_be_divided(tmp_path):
    write_coco(tmp_path, pictures(), {"train": [0]})
    with pytest.raises(DatasetError, match="cannot be divided"):
        prepare_data(config(tmp_path, tmp_path / "out"))
    cfg = config(tmp_path, tmp_path / "out")
    cfg.dataloader.data.val_fraction = 1.0
    with pytest.raises(DatasetError, match=r"val_fraction=1\.0 is not between 0 and 1"):
        prepare_data(cfg)


def test_settings_that_contradict_each_other(tmp_path):
    write_coco(tmp_path / "data", pictures())
    cfg = config(tmp_path / "data", tmp_path)
    cfg.dataloader.data.train_json = "x.json"
    with pytest.raises(DatasetError, match=r"data\.root and dataloader\.data\.train_json are both set"):
        prepare_data(cfg)
    cfg = config(tmp_path / "data", tmp_path)
    cfg.dataloader.data.format = "tfrecord"
    with pytest.raises(DatasetError, match="give one of coco, yolo, voc, labelme"):
        prepare_data(cfg)
    (tmp_path / "export.zip").write_bytes(b"PK")
    with pytest.raises(DatasetError, match="is a file; unpack it"):
        prepare_data(config(tmp_path / "export.zip", tmp_path))
    with pytest.raises(DatasetError, match="no such folder"):
        prepare_data(config(tmp_path / "absent", tmp_path))
    cfg = config(tmp_path / "data", tmp_path)
    cfg.dataloader.data.root = None
    with pytest.raises(DatasetError, match=r"or dataloader\.data\.root=FOLDER"):
        prepare_data(cfg)


def test_an_evaluation_needs_the_validation_split_alone(tmp_path):
    root = tmp_path / "data"
    write_yolo(root, pictures())
    shutil.rmtree(root / "images" / "train")
    with pytest.raises(DatasetError, match="no training images, only val"):
        prepare_data(config(root, tmp_path / "out"))
    assert prepare_data(config(root, tmp_path / "out"), train=False).class_names == CLASSES


def test_a_broken_test_split_stops_no_training(tmp_path):
    root = tmp_path / "data"
    write_coco(root, pictures(), {"train": range(5), "val": range(5, 7), "test": range(7, 9)})
    (root / "images" / "p8.png").unlink()
    assert prepare_data(config(root, tmp_path / "out")).num_train_images == 5
    findings = check_source(open_folder(root)).findings
    assert [(f.kind, f.split) for f in findings] == [("missing-image", "test")]


def test_of_two_formats_one_is_chosen(tmp_path):
    write_coco(tmp_path / "data", pictures())
    write_yolo(tmp_path / "other", pictures())
    shutil.copytree(tmp_path / "other", tmp_path / "data", dirs_exist_ok=True)
    for name, expected in (("coco", "COCO json"), ("yolo", "YOLO")):
        assert open_folder(tmp_path / "data", format=name).format == expected


def test_paths_outside_are_read_when_that_is_allowed(tmp_path):
    root = tmp_path / "data"
    write_yolo(root, pictures())
    (root / "images" / "train").rename(tmp_path / "train")
    for name in (root / "labels" / "train").iterdir():
        shutil.move(name, tmp_path / "train")
    text = (root / "data.yaml").read_text()
    (root / "data.yaml").write_text(text.replace("images/train", "../train"))
    with pytest.raises(DatasetError, match="allow_outside=True permits it"):
        open_folder(root)
    checked = check_source(open_folder(root, allow_outside=True))
    assert checked.trainable
    assert len(checked.splits["train"].records) == 6
    copy = write_fixed_copy(check_files(checked, num_workers=1), tmp_path / "fixed")
    assert len(check_source(open_folder(copy)).splits["train"].records) == 6


def test_links_inside_the_folder_are_followed(tmp_path):
    """The rule is about what annotation files say; a link is the owner's own act."""
    write_coco(tmp_path / "data", pictures())
    (tmp_path / "data" / "images").rename(tmp_path / "elsewhere")
    (tmp_path / "data" / "images").symlink_to(tmp_path / "elsewhere")
    assert check_source(open_folder(tmp_path / "data")).trainable


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_fix_turns_boxes_as_exif_turns_the_image(orientation, tmp_path):
    """A white rectangle is found where its box is, after Pillow has turned the image."""
    items = pictures()
    pixels = np.zeros((HEIGHT, WIDTH, 3), dtype=np.uint8)
    pixels[10:25, 30:70] = 255
    items[0] = Picture("p0", pixels, [(0, [30, 10, 40, 15])])
    write_coco(tmp_path / "data", items)
    path = tmp_path / "data" / "images" / "p0.png"
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.open(path).save(path, exif=exif)
    files = check_files(check_source(open_folder(tmp_path / "data")), num_workers=1)
    assert [f.kind for f in files.checked.findings] == ["exif-mismatch"]
    checked = check_source(open_folder(write_fixed_copy(files, tmp_path / "fixed")))
    record = next(r for r in checked.splits["train"].records if r["file_name"].endswith("p0.png"))
    prepare_data(config(tmp_path / "fixed", tmp_path / "out"))
    sample = DetrDatasetMapper(augmentation=[], is_train=True)(record)
    ys, xs = np.nonzero(sample["image"][0].numpy())
    assert sample["instances"].gt_boxes.tensor.tolist() == [[xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]]


def test_processes_give_what_one_gives(tmp_path):
    write_voc(tmp_path, pictures())
    (tmp_path / "JPEGImages" / "p1.png").write_bytes(b"")
    checked = check_source(open_folder(tmp_path))
    counts: list[int] = []
    one, two = (check_files(checked, num_workers=n, on_progress=counts.append) for n in (1, 2))
    assert one == two
    assert counts == [*range(1, 9), *range(1, 9)]


def bccd_pictures(count: int) -> list[Picture]:
    """The first images of BCCD's training and validation parts; class ids in alphabetical order."""
    items = []
    for part in ("train", "val"):
        content = json.loads((BCCD / "annotations" / f"instances_{part}.json").read_text())
        order = {c["id"]: i for i, c in enumerate(sorted(content["categories"], key=lambda c: c["name"]))}
        for image in content["images"][:count]:
            boxes = [
                (order[a["category_id"]], [int(v) for v in a["bbox"]])
                for a in content["annotations"]
                if a["image_id"] == image["id"]
            ]
            pixels = np.asarray(Image.open(BCCD / "images" / image["file_name"]).convert("RGB"))
            items.append(Picture(Path(image["file_name"]).stem, pixels, boxes))
    return items


@pytest.mark.skipif(BCCD is None, reason="needs BCCD under DETECTRON2_DATASETS/bccd")
def test_bccd_in_three_formats_has_the_same_records_and_losses(tmp_path, monkeypatch):
    """Check, two steps of training and an evaluation from each format, with one override."""
    monkeypatch.setattr(folders, "CLASSES", ("Platelets", "RBC", "WBC"))
    items = bccd_pictures(8)
    splits = {"train": range(8), "val": range(8, 16)}
    records, losses = {}, {}
    for layout in ("coco", "voc", "yolo", "yolo_roboflow"):
        root, output = tmp_path / layout, tmp_path / f"{layout}_out"
        WRITERS[layout](root, items, splits)
        checked = check_files(check_source(open_folder(root)), num_workers=1).checked
        assert checked.trainable
        assert checked.splits["train"].class_names == ("Platelets", "RBC", "WBC")
        records[layout] = {**boxes_by_name(checked, "train"), **boxes_by_name(checked, "val")}
        options = [
            *(f"dataloader.data.root={root}", f"train.output_dir={output}", "train.seed=0", "train.max_iter=2"),
            *("train.eval_period=0", "train.warmup=0", "train.log_period=1", "train.checkpointer.period=2"),
            *("dataloader.train.total_batch_size=2", "dataloader.train.num_workers=0", "dataloader.test.num_workers=0"),
        ]
        status = run(["--config-file", str(CONFIG), "--num-gpus", "0", *options])
        assert status == 0
        rows = [json.loads(line) for line in (output / "metrics.json").read_text().splitlines()]
        losses[layout] = [row["total_loss"] for row in rows if "total_loss" in row]
    assert sum(len(boxes) for boxes in records["coco"].values()) > 100
    for layout in ("voc", "yolo", "yolo_roboflow"):
        assert set(records[layout]) == set(records["coco"])
        for name, boxes in records["coco"].items():
            atol = 0 if layout == "voc" else 640 * 1e-6  # six digits of the width
            np.testing.assert_allclose(np.sort(records[layout][name], 0), np.sort(boxes, 0), rtol=0, atol=atol)
    assert len(losses["coco"]) >= 2
    assert losses["voc"] == losses["coco"]
    assert losses["yolo"] == pytest.approx(losses["coco"], rel=1e-3)
