"""Charts: detrex visualize curves with runs beside each other, the demo's curves, the report's SVG."""

from __future__ import annotations

import json
import re
from xml.etree import ElementTree

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from detrex.cli.visualize import main
from detrex.visualization.charts import LARGEST, Chart, chart_svg, read_metrics, training_curve


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
    assert main(["curves", str(runs / "short"), str(runs / "long" / "metrics.json"), "--output", str(picture)]) == 0
    assert capsys.readouterr().out == f"bbox/AP, total_loss, lr of short, long: {picture}\n"
    with Image.open(picture) as four, Image.open(_draw(runs, "lr", "short")) as one:
        assert (four.width, four.height) == (2 * one.width, 2 * one.height)


def test_every_run_has_its_line(runs):
    assert _draw(runs, "bbox/AP", "short", "long").read_bytes() != _draw(runs, "bbox/AP", "short").read_bytes()


def _draw(runs, metric, *names):
    picture = runs / f"{len(names)}.png"
    assert main(["curves", *(str(runs / name) for name in names), "--metrics", metric, "--output", str(picture)]) == 0
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
    assert main(["curves", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_curves_of_a_metrics_file(tmp_path):
    lines = [{"iteration": i, "total_loss": 10.0 / (i + 1), "lr": 1e-3, "name": "x"} for i in range(0, 60, 20)]
    last = '{"iteration": 60, "bbox/AP": NaN, "bbox/APl": null, "bbox/AP50": 40.0}'
    text = "\n".join([*map(json.dumps, lines), last, '{"iterat'])
    path = tmp_path / "metrics.json"
    path.write_text(text)
    curves = read_metrics(path)
    assert curves["lr"] == ([0, 20, 40], [1e-3] * 3)
    assert curves["bbox/AP50"] == ([60], [40.0])
    assert not {"name", "bbox/APl"} & set(curves)
    training_curve(path, tmp_path / "curve.png", title="run")
    with Image.open(tmp_path / "curve.png") as picture:
        assert picture.width > 1000
    with pytest.raises(FileNotFoundError):
        training_curve(tmp_path / "absent.json", tmp_path / "curve.png")


VALUES = st.lists(st.floats() | st.sampled_from([0.0, 1e-5, -1.0, 3.0]), max_size=50)


@settings(deadline=None, max_examples=25)
@example(values=[2.7e269, 8.5e-63], log=True)
@example(values=[1.2e308, -1.0], log=False)
@given(values=VALUES, log=st.booleans())
def test_charts_of_any_values_are_drawn_within_their_axes(values, log):
    chart = Chart("x", {"a": (range(len(values)), values)}, log=log)
    low = 1 / LARGEST if log else -LARGEST
    usable = {x: v for x, v in enumerate(values) if low <= v <= LARGEST}
    assert chart.lines == ({"a": ([*usable], [*usable.values()])} if usable else {})
    assert chart.alt.startswith("x: a from " if usable else "x: nothing")
    body = chart_svg(chart, size=(460, 250))
    ElementTree.fromstring(f'<svg xmlns:xlink="x">{body}</svg>')
    paths = re.findall(r'd="(M[^"]*)"[^>]*stroke: var\(--c0\)', body)
    for x, y in re.findall(r"[ML] (-?[\d.]+) (-?[\d.]+)", " ".join(paths)):
        assert abs(float(x)) <= 460
        assert abs(float(y)) <= 250


def test_long_curves_are_thinned_and_keep_their_ends():
    (line,) = Chart("x", {"a": (range(10_000), range(10_000))}).lines.values()
    assert len(line[0]) <= 402
    assert (line[0][0], line[0][-1]) == (line[1][0], line[1][-1]) == (0, 9999)


def test_names_in_any_script_and_with_markup_are_text_in_the_svg():
    body = chart_svg(Chart("<b>", {"<i>&$x_1$": ([0, 1], [1.0, 2.0])}, x_label="Кот <b>é"))
    assert "Кот &lt;b&gt;é" in body
    assert "<b>" not in body
    assert "<style" not in body
    assert "<metadata" not in body
