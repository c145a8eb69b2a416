"""tools/plot_metrics.py: runs beside each other."""

from __future__ import annotations

import json

import pytest
from PIL import Image

from detrex.visualization.curves import main


@pytest.fixture
def runs(tmp_path):
    for name, factor in (("short", 1.0), ("long", 2.0)):
        folder = tmp_path / name
        folder.mkdir()
        rows = [{"iteration": i, "total_loss": factor * 10 / (i + 1), "lr": 1e-3} for i in range(0, 60, 20)]
        rows.append({"iteration": 60, "bbox/AP": 20 * factor})
        (folder / "metrics.json").write_text("\n".join(map(json.dumps, rows)))
    return tmp_path


def test_folders_and_files_with_a_panel_for_each_metric(runs, capsys):
    picture = runs / "curves.png"
    assert main([str(runs / "short"), str(runs / "long" / "metrics.json"), "--output", str(picture)]) == 0
    assert capsys.readouterr().out == f"bbox/AP, total_loss, lr of short, long: {picture}\n"
    with Image.open(picture) as four, Image.open(_draw(runs, "lr", "short")) as one:
        assert (four.width, four.height) == (2 * one.width, 2 * one.height)


def test_every_run_has_its_line(runs):
    assert _draw(runs, "bbox/AP", "short", "long").read_bytes() != _draw(runs, "bbox/AP", "short").read_bytes()


def _draw(runs, metric, *names):
    picture = runs / f"{len(names)}.png"
    assert main([*(str(runs / name) for name in names), "--metrics", metric, "--output", str(picture)]) == 0
    return picture


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["short", "nowhere"], "nowhere"),
        (["short", "--metrics", "bbox/APx"], "no run has recorded bbox/APx; there are bbox/AP, lr, total_loss"),
        (["short", "short"], "2 runs need as many different --labels, not short, short"),
        (["short", "long", "--labels", "a"], "2 runs need as many different --labels, not a"),
    ],
)
def test_wrong_input_is_named(runs, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(runs)
    assert main(arguments) == 2
    assert message in capsys.readouterr().err
