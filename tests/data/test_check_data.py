"""detrex check-data: exit status, report, pictures, cleaned copy."""

from __future__ import annotations

import errno
import json
import re
from pathlib import Path

import numpy as np
import pytest
from coco_files import ROOT
from damages import png_header
from folders import pictures, write_coco, write_yolo
from PIL import Image
from test_broken_data import fingerprint

from detrex.cli.check_data import EXIT_NOT_TRAINABLE, EXIT_TRAINABLE, EXIT_USAGE, main
from detrex.data import KINDS
from detrex.distributed.errors import EXIT_MACHINE


@pytest.fixture
def check(tmp_path, capsys):
    """Run the command on tmp_path/data; returns (status, stdout, stderr)."""

    def run(*options: str) -> tuple[int, str, str]:
        fixed = ["--output", str(tmp_path / "out"), "--num-workers", "1"]
        status = main([*fixed, *options, f"dataloader.data.root={tmp_path / 'data'}"])
        return (status, *capsys.readouterr())

    return run


def report(folder: Path) -> dict:
    return json.loads((folder / "report.json").read_text())


def test_a_good_data_set(check, tmp_path):
    write_yolo(tmp_path / "data", pictures())
    before = fingerprint(tmp_path / "data")
    status, out, err = check()
    assert status == EXIT_TRAINABLE
    assert "YOLO" in out
    assert re.search(r"train: 6 images, 15 boxes: bird \d+, cat \d+, dog \d+", out)
    assert "Errors: none" in out
    assert out.splitlines()[-2] == "Can be trained on."
    assert not err
    content = report(tmp_path / "out")
    assert content["trainable"] is True
    assert content["splits"]["val"]["images"] == 3
    assert content["findings"] == []
    assert fingerprint(tmp_path / "data") == before


def test_pictures_are_drawn(check, tmp_path):
    write_coco(tmp_path / "data", pictures())
    check()
    for name, least in (("statistics.png", 800), ("samples.png", 800)):
        pixels = np.asarray(Image.open(tmp_path / "out" / name).convert("RGB"))
        assert pixels.shape[1] > least
        assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 50


def test_a_broken_one_and_its_cleaned_copy(check, tmp_path):
    root = tmp_path / "data"
    write_coco(root, pictures())
    (root / "images" / "p0.png").write_bytes(png_header(100_000, 100_000))
    (root / "images" / "p1.png").unlink()
    before = fingerprint(root)
    status, out, _ = check()
    assert status == EXIT_NOT_TRAINABLE
    assert "Cannot be trained on as it is." in out
    content = report(tmp_path / "out")
    assert content["trainable"] is False
    assert content["counts"] == {"decompression-bomb": 1, "missing-image": 1}
    assert {(f["severity"], f["split"]) for f in content["findings"]} == {("error", "train")}
    assert "p0.png" in (tmp_path / "out" / "report.txt").read_text()

    status, out, _ = check("--fix", str(tmp_path / "fixed"))
    assert status == EXIT_TRAINABLE
    assert out.rstrip().endswith("Can be trained on.")
    assert sorted(p.name for p in (tmp_path / "fixed" / "images").iterdir()) == [f"p{i}.png" for i in range(2, 9)]
    assert fingerprint(root) == before
    for name in ("p2.png", "p8.png"):
        assert (tmp_path / "fixed" / "images" / name).read_bytes() == (root / "images" / name).read_bytes()

    status, _, err = check("--fix", str(tmp_path / "fixed"))
    assert status == EXIT_USAGE
    assert "exists already" in err
    status, _, err = check("--fix", str(root / "fixed"))
    assert status == EXIT_USAGE
    assert "lies within the data set" in err
    assert fingerprint(root) == before


def test_what_cannot_be_opened_is_reported_too(check, tmp_path):
    write_coco(tmp_path / "data", pictures())
    (tmp_path / "data" / "annotations" / "instances_train.json").write_text("{")
    status, _, err = check()
    assert status == EXIT_NOT_TRAINABLE
    assert "error: " in err
    assert "instances_train.json" in err
    assert report(tmp_path / "out")["counts"] == {"unreadable-annotations": 1}


def test_a_failing_machine_ends_the_check_and_blames_no_image(check, tmp_path, monkeypatch):
    write_coco(tmp_path / "data", pictures())
    path = str(tmp_path / "data" / "images" / "p1.png")
    opened = Image.open

    def fail(name, **kwargs):
        if str(name) == path:
            raise OSError(errno.EMFILE, "Too many open files", path)
        return opened(name, **kwargs)

    monkeypatch.setattr(Image, "open", fail)
    status, out, err = check()
    assert status == EXIT_MACHINE
    assert err == f"error: [Errno {errno.EMFILE}] Too many open files: '{path}'\n"
    assert "cannot be read" not in out


def test_what_no_copy_can_mend(check, tmp_path):
    write_coco(tmp_path / "data", pictures())
    path = tmp_path / "data" / "annotations" / "instances_val.json"
    path.write_text(path.read_text().replace('"cat"', '"lion"'))
    status, _, err = check("--fix", str(tmp_path / "fixed"))
    assert status == EXIT_NOT_TRAINABLE
    assert "--fix cannot mend this" in err
    assert not (tmp_path / "fixed").exists()


def test_wrong_command_lines(check, tmp_path):
    write_coco(tmp_path / "data", pictures())
    status, _, err = check("dataloader.data.rot=x")
    assert status == EXIT_USAGE
    assert "dataloader.data.root" in err  # the suggestion
    status, _, err = check("--output", str(tmp_path / "data" / "out"))
    assert status == EXIT_USAGE
    assert "lies within the data set" in err
    status, _, err = check("--config-file", "projects/deformable_detr/configs/deformable_detr_r50_50ep.py")
    assert status == EXIT_USAGE


def test_the_made_split_is_written_beside_the_report(check, tmp_path):
    write_coco(tmp_path / "data", pictures(), {"train": range(9)})
    status, out, _ = check()
    assert status == EXIT_TRAINABLE
    assert "split made, see split.json" in out
    assert len(json.loads((tmp_path / "out" / "split.json").read_text())["val"]) == 2


def test_names_that_terminals_and_plots_obey(check, tmp_path):
    write_coco(tmp_path / "data", pictures())
    for path in (tmp_path / "data" / "annotations").iterdir():
        content = json.loads(path.read_text())
        content["categories"][1]["name"] = "$\\frac{\x1b[31m\n"
        path.write_text(json.dumps(content))
    status, out, _ = check()
    assert status == EXIT_TRAINABLE
    assert "\x1b" not in out
    assert "$\\frac{\\x1b[31m" in out


def test_every_kind_is_documented():
    text = (ROOT / "docs" / "custom_data.md").read_text()
    for name, kind in KINDS.items():
        assert f"| `{name}` | {kind.severity} | {kind.meaning} | {kind.fix or ''}" in text
