"""detrex predict: images and videos with boxes drawn on them."""

from __future__ import annotations

import errno
import json
import os
import shutil
import sys
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from detector_workspace import images
from PIL import Image

from detrex.cli import predict
from detrex.data import read_image
from detrex.data.datasets.shapes import CLASS_NAMES
from detrex.inference.annotate import annotate
from detrex.inference.inputs import find_inputs


# ------------------------------------------------------------------------------------------------------------- videos
@pytest.fixture
def film(workspace, tmp_path) -> Path:
    """Six frames at ten a second."""
    pytest.importorskip("av")
    from detrex.inference.video import write_frames

    write_frames(str(tmp_path / "film.mp4"), [read_image(p) for p in images(workspace)], Fraction(10))
    return tmp_path / "film.mp4"


def test_a_video_streams_its_frames(film, detector):
    from detrex.inference.video import frame_rate, read_frames

    assert frame_rate(str(film)) == 10
    stream = detector.predict(film, threshold=0, batch_size=4)
    assert isinstance(stream, Iterator)
    found = list(stream)
    assert [(f.file, f.frame) for f in found] == [(str(film), i) for i in range(6)]
    frames = list(read_frames(str(film)))
    assert np.array_equal(found[5].image(), frames[5])
    assert found[2].plot().size == (96, 96)


def test_an_annotated_video(film, detector, tmp_path):
    import av

    summary = annotate(detector, [str(film)], tmp_path / "out", threshold=0.01)
    assert summary.done
    records = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert [r["frame"] for r in records] == list(range(6))
    with av.open(str(tmp_path / "out" / "film.mp4")) as container:
        assert sum(1 for _ in container.decode(video=0)) == 6
    (tmp_path / "broken.mp4").write_bytes(b"x" * 100)
    assert annotate(detector, [str(tmp_path / "broken.mp4")], tmp_path / "out2").failed


def test_a_named_pipe_is_no_video(detector, tmp_path):
    pytest.importorskip("av")
    os.mkfifo(tmp_path / "film.mp4")
    summary = annotate(detector, [str(tmp_path / "film.mp4")], tmp_path / "out")
    assert "is a named pipe, not a regular file" in summary.failed[0][1]


def test_video_without_av_names_the_package(detector, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    (tmp_path / "film.mp4").touch()
    summary = annotate(detector, [str(tmp_path / "film.mp4")], tmp_path / "out")
    assert "pip install av" in summary.failed[0][1]


# ------------------------------------------------------------------------------------------------------ detrex predict
def test_find_inputs(tmp_path):
    for name in ("b.JPG", "a.png", "notes.txt", "film.mp4", "._a.png", ".hidden.jpg"):
        (tmp_path / name).touch()
    assert [p.rsplit("/", 1)[1] for p in find_inputs([str(tmp_path)])] == ["a.png", "b.JPG", "film.mp4"]
    assert find_inputs([str(tmp_path / "*.png"), str(tmp_path / "a.png")]) == [str(tmp_path / "a.png")]
    for bad in ("absent.jpg", "*.gif"):
        with pytest.raises(FileNotFoundError, match="no such file"):
            find_inputs([str(tmp_path / bad)])
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="empty"):
        find_inputs([str(tmp_path / "empty")])


def test_same_names_do_not_overwrite_each_other(detector, workspace, tmp_path):
    source = images(workspace)[0]
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        shutil.copy(source, tmp_path / folder / "x.jpg")
    summary = annotate(detector, find_inputs([str(tmp_path / "a"), str(tmp_path / "b")]), tmp_path / "out")
    assert len(summary.done) == 2
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"x.jpg", "x_2.jpg", "predictions.json"}
    with pytest.raises(ValueError, match="would be overwritten"):
        annotate(detector, [str(tmp_path / "a" / "x.jpg")], tmp_path / "a")


@pytest.fixture
def run_tool(workspace, monkeypatch):
    """detrex predict in this process: (output, *inputs) -> exit status."""
    monkeypatch.setattr(predict, "setup_logger", lambda **kwargs: None)

    def run(output, *inputs):
        options = ["--weights", str(workspace / "model.pth"), "--output", str(output), "--device", "cpu"]
        return predict.main([*options, "--threshold", "0.01", "--input", *map(str, inputs)])

    return run


def test_command_names_and_counts_bad_images(run_tool, workspace, tmp_path, capsys):
    (tmp_path / "broken.jpg").write_bytes(b"not an image")
    good = images(workspace)[0]
    assert run_tool(tmp_path / "out", good, tmp_path / "broken.jpg") == 0
    printed = capsys.readouterr().out
    assert "1 of 2 files processed" in printed
    assert f"skipped {tmp_path / 'broken.jpg'}" in printed
    records = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert [r["file"] for r in records] == [good]
    assert (records[0]["height"], records[0]["width"]) == (96, 96)
    assert records[0]["predictions"][0]["category_name"] in CLASS_NAMES
    with Image.open(tmp_path / "out" / "000000.jpg") as drawn, Image.open(good) as original:
        assert drawn.size == original.size
        assert np.abs(np.asarray(drawn).astype(int) - np.asarray(original)).max() > 100


def test_file_names_that_are_no_text_are_escaped(run_tool, workspace, tmp_path, capsys):
    good, bad = (os.fsencode(tmp_path) + name for name in (b"/\xff\x1b[2J.png", b"/\xfe.jpg"))
    shutil.copy(images(workspace)[0], good)
    Path(os.fsdecode(bad)).write_bytes(b"not an image")
    assert run_tool(tmp_path / "out", os.fsdecode(good), os.fsdecode(bad)) == 0
    printed = capsys.readouterr().out
    assert r"\udcfe.jpg" in printed
    assert "\x1b" not in printed
    (record,) = json.loads((tmp_path / "out" / "predictions.json").read_text(encoding="ascii"))
    assert record["file"] == os.fsdecode(good)


def test_a_full_disk_is_no_broken_image(detector, workspace, tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", fail)
    with pytest.raises(OSError, match="No space left"):
        annotate(detector, images(workspace)[:1], tmp_path / "out")


def test_command_fails_when_every_image_does(run_tool, tmp_path, capsys):
    (tmp_path / "broken.jpg").write_bytes(b"not an image")
    assert run_tool(tmp_path / "out", tmp_path / "broken.jpg") == 1
    assert run_tool(tmp_path / "out", tmp_path / "absent.jpg") == 2
    assert "absent.jpg" in capsys.readouterr().err
