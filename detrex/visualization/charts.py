"""Line charts of curves: of one run or several as a picture, and as SVG for a page."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from detrex.inference.fonts import drawable, families_for
from detrex.utils.regular_files import open_regular

__all__ = [
    "Chart",
    "chart_svg",
    "compare_runs",
    "draw_charts",
    "figure_with",
    "read_metrics",
    "training_curve",
]

MAX_POINTS = 400  # of a line; a picture has few more pixels
LARGEST = 1e99  # magnitude of a value that is drawn; Matplotlib's ticks overflow beyond
MAX_MARKS = 40  # points; a line with more shows none of them
# Colours of the SVG, which a page defines: in an SVG, Matplotlib writes the stand-in of each as it is given.
PALETTE = 8
PAGE_COLOURS = {f"#0000c{i}": f"var(--c{i})" for i in range(PALETTE)} | {
    "#00000a": "var(--grid)", "#00000b": "var(--line)", "#00000c": "var(--soft)"
}  # fmt: skip

Curve = tuple[Sequence[float], Sequence[float]]


@dataclass(frozen=True)
class Chart:
    """Lines over one axis.

    Attributes:
        title: above it.
        curves: label -> (x, y). Values that are not finite or larger than ``LARGEST`` are left out; with ``log``, also
            those below its inverse.
        x_label: of the horizontal axis.
        log: whether the vertical axis is logarithmic.
        x_range, y_range: of the axes; None is that of the values, upwards with 0 unless ``log``.
    """

    title: str
    curves: Mapping[str, Curve]
    x_label: str = "iteration"
    log: bool = False
    x_range: tuple[float, float] | None = None
    y_range: tuple[float, float] | None = None

    @property
    def lines(self) -> dict[str, Curve]:
        """The curves that have something to draw, without what is left out."""
        return {label: curve for label, pairs in self.curves.items() if (curve := self._usable(pairs))[0]}

    @property
    def alt(self) -> str:
        """What it shows, for those who do not see it."""
        ends = [f"{label} from {_number(ys[0])} to {_number(ys[-1])}" for label, (_, ys) in self.lines.items()]
        return f"{self.title}: {'; '.join(ends) or 'nothing recorded'}"

    def _usable(self, curve: Curve) -> Curve:
        low = 1 / LARGEST if self.log else -LARGEST
        pairs = [(x, y) for x, y in zip(*curve, strict=True) if low <= y <= LARGEST]
        stride = max(-(-len(pairs) // MAX_POINTS), 1)
        kept = pairs[::stride] if stride == 1 else [*pairs[::stride], pairs[-1]]
        return [x for x, _ in kept], [y for _, y in kept]

    def draw(self, axis: Any, *, colours: Sequence[str] | None = None, ticks: int = 5) -> None:
        """Draw the lines and both scales into Matplotlib's axes.

        Args:
            axis: ``matplotlib.axes.Axes``. colours: of the lines, in turn; None is Matplotlib's own.
            ticks: about how many on an axis.
        """
        from matplotlib import ticker

        for number, (label, (xs, ys)) in enumerate(self.lines.items()):
            colour = {} if colours is None else {"color": colours[number % len(colours)]}
            dashes = "-" if number < PALETTE else "--"
            marker = "o" if len(xs) <= MAX_MARKS else ""
            axis.plot(xs, ys, dashes, label=drawable(label), marker=marker, markersize=3, **colour)
        if self.x_range:
            axis.set_xlim(*self.x_range)
        axis.xaxis.set_major_locator(ticker.MaxNLocator(ticks, steps=[1, 2, 2.5, 5, 10]))
        if self.log and self.lines:
            axis.set_yscale("log")
            low, high = axis.get_ylim()
            subs = (1.0,) if high / low > 100 else (1.0, 2.0, 5.0)
            axis.yaxis.set_major_locator(ticker.LogLocator(subs=subs, numticks=3 * ticks))
            axis.yaxis.set_minor_formatter(ticker.NullFormatter())
        else:
            axis.yaxis.set_major_locator(ticker.MaxNLocator(ticks, steps=[1, 2, 2.5, 5, 10]))
            values = [y for _, ys in self.lines.values() for y in ys]
            if values and not self.y_range:
                axis.set_ylim(
                    min(0.0, axis.get_ylim()[0]) if min(values) < 0 else 0.0, None if max(values) > 0 else 1.0
                )
        if self.y_range:
            axis.set_ylim(*self.y_range)
        for scale in (axis.xaxis, axis.yaxis):
            scale.set_major_formatter(ticker.FuncFormatter(lambda value, _: _number(value)))
        axis.set_xlabel(self.x_label)
        axis.grid(True, alpha=None if colours else 0.3)


@contextlib.contextmanager
def figure_with(
    texts: Iterable[str],
    output: Any,
    *,
    size: tuple[float, float],
    dpi: int = 110,
    style: Mapping[str, Any] | None = None,
    **options: Any,
) -> Iterator[Any]:
    """A Matplotlib figure to draw on, written at the end, with fonts that have the characters of its texts.

    Args:
        texts: that will be drawn, :func:`drawable`.
        output: file, or stream with a ``format`` among the options; of a file, the type follows from the suffix.
        size: in inches. dpi: pixels of an inch.
        style: more of Matplotlib's rc parameters. options: of ``savefig``.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure  # without pyplot: no window system, no global state

    with rc_context({"font.family": families_for(texts), **(style or {})}):
        figure = Figure(figsize=size, layout="constrained")
        yield figure
        for text in figure.findobj(lambda artist: hasattr(artist, "set_parse_math")):
            text.set_parse_math(False)  # a "$" in a name is no formula
        figure.savefig(output, dpi=dpi, **options)


def draw_charts(charts: Sequence[Chart], output: str | os.PathLike[str], *, columns: int = 2, title: str = "") -> None:
    """Draw charts beside each other as one picture.

    Args:
        charts: in reading order.
        output: picture to write; the type follows from the suffix.
        columns: at most.
        title: above all.
    """
    columns = min(columns, len(charts))
    rows = -(-len(charts) // columns)
    texts = [drawable(text) for chart in charts for text in (title, chart.title, *chart.curves)]
    with figure_with(texts, output, size=(6.5 * columns, 3.6 * rows)) as figure:
        axes = figure.subplots(rows, columns, squeeze=False).flatten()
        for axis, chart in zip(axes, charts, strict=False):
            chart.draw(axis)
            axis.set_title(drawable(chart.title))
            if chart.lines:
                axis.legend(fontsize=8)
            else:
                axis.text(0.5, 0.5, "not recorded", ha="center", va="center", transform=axis.transAxes)
        for axis in axes[len(charts) :]:
            axis.remove()
        figure.suptitle(drawable(title))


def chart_svg(chart: Chart, *, size: tuple[int, int] = (460, 250), ticks: int = 5) -> str:
    """The lines and scales of a chart: what is inside an ``<svg>`` whose colours, title and legend are the page's.

    Args:
        chart: to draw. size: (width, height) in units of the page. ticks: about how many on an axis.
    """
    grid, line, soft = list(PAGE_COLOURS)[PALETTE:]
    style = {
        "svg.fonttype": "none",  # text stays text
        "svg.hashsalt": chart.title,
        "font.size": 10,
        "lines.linewidth": 1.4,
        "axes.edgecolor": line,
        "axes.labelcolor": soft,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.spines.left": False,
        "grid.color": grid,
        **{f"{axis}tick.{key}": value for axis in "xy" for key, value in (("color", line), ("labelcolor", soft))},
        "ytick.major.size": 0,
    }
    buffer = io.StringIO()
    inches = (size[0] / 72, size[1] / 72)
    options = {"format": "svg", "transparent": True, "metadata": {"Date": None}}
    with figure_with([chart.x_label], buffer, size=inches, dpi=72, style=style, **options) as figure:
        chart.draw(figure.subplots(), colours=list(PAGE_COLOURS)[:PALETTE], ticks=ticks)
    text = buffer.getvalue()
    body = text[text.index(">", text.index("<svg")) + 1 : text.rindex("</svg>")]
    body = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|\s(?=\s)", "", body, flags=re.DOTALL)
    body = re.sub(r'<g id="[^"]*"', "<g", body)  # the same in every chart
    for stand_in, colour in PAGE_COLOURS.items():
        body = body.replace(stand_in, colour)
    return body


def read_metrics(path: str | os.PathLike[str]) -> dict[str, tuple[list[int], list[float]]]:
    """Curves of a ``metrics.json`` (JSON lines): name -> (iterations, values). Lines cut off by a crash are left out.

    Raises:
        OSError: there is no such file, or it is no regular one.
    """
    curves: dict[str, tuple[list[int], list[float]]] = {}
    with open_regular(path) as file:
        lines = file.read().decode("utf-8", errors="replace").splitlines()
    for line in lines:
        try:
            record = json.loads(line)
            iteration = int(record.pop("iteration"))
        except (ValueError, KeyError, AttributeError, TypeError, RecursionError):
            continue
        for name, value in record.items():
            if isinstance(value, (int, float)):
                iterations, values = curves.setdefault(name, ([], []))
                iterations.append(iteration)
                values.append(float(value))
    return curves


def training_curve(metrics: str | os.PathLike[str], output: str | os.PathLike[str], *, title: str = "") -> None:
    """Draw losses, AP and learning rate over the iterations of a run.

    Args:
        metrics: the run's ``metrics.json``.
        output: picture to write; the type follows from the suffix.
        title: above the charts.

    Raises:
        OSError: there is no such ``metrics.json``.
    """
    curves = read_metrics(metrics)

    def chosen(*names: str) -> dict[str, Curve]:
        return {name.removeprefix("bbox/"): curves[name] for name in names if name in curves}

    charts = [
        Chart("loss (weighted)", chosen("total_loss", "loss_class", "loss_bbox", "loss_giou"), log=True),
        Chart("AP in percent", chosen("bbox/AP", "bbox/AP50", "bbox/AP75"), y_range=(0, 100)),
        Chart("learning rate", chosen("lr")),
    ]
    draw_charts(charts, output, columns=3, title=title)


def compare_runs(
    runs: Mapping[str, Mapping[str, Curve]], metrics: Sequence[str], output: str | os.PathLike[str]
) -> None:
    """Draw a chart for each metric with a line for each run.

    Args:
        runs: label -> curves, as :func:`read_metrics` gives them.
        metrics: names; a run that lacks one has no line there.
        output: picture to write; the type follows from the suffix.

    Raises:
        ValueError: a metric that no run has recorded; lists those that there are.
    """
    recorded = {name for curves in runs.values() for name in curves}
    unknown = [name for name in metrics if name not in recorded]
    if unknown:
        raise ValueError(f"no run has recorded {', '.join(unknown)}; there are {', '.join(sorted(recorded))}")
    charts = [
        Chart(name, {label: curves[name] for label, curves in runs.items() if name in curves}, log="loss" in name)
        for name in metrics
    ]
    draw_charts(charts, output)


def _number(value: float) -> str:
    return f"{int(value):,}" if value == int(value) and abs(value) < 1e6 else f"{value:.3g}"
