"""Line charts as coordinates; the page draws them as inline SVG, in the reader's own colours and fonts."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

__all__ = ["LineChart", "PlottedLine", "line_chart"]

MAX_POINTS = 400  # of a line; a page has few more pixels
MAX_MARKS = 40  # a line with at most so many points shows each, with its value

Curve = tuple[Sequence[float], Sequence[float]]


@dataclass(frozen=True)
class PlottedLine:
    """A line in the chart's coordinates.

    Attributes:
        label: for the legend. path: "x,y x,y ...". colour: number of it in the page's palette.
        marks: (x, y, text) of the points that are marked.
    """

    label: str
    path: str
    colour: int
    marks: tuple[tuple[float, float, str], ...]


@dataclass(frozen=True)
class LineChart:
    """A chart of ``width`` x ``height`` units whose axes cross at ``left``, ``bottom``.

    Attributes:
        title: above it. alt: what it shows, for those who do not see it.
        x_ticks, y_ticks: (position, text).
        x_label: below the horizontal axis.
    """

    title: str
    alt: str
    width: float
    height: float
    left: float
    right: float
    top: float
    bottom: float
    lines: tuple[PlottedLine, ...]
    x_ticks: tuple[tuple[float, str], ...]
    y_ticks: tuple[tuple[float, str], ...]
    x_label: str


def line_chart(
    title: str,
    curves: Mapping[str, Curve],
    *,
    x_label: str = "iteration",
    log: bool = False,
    x_range: tuple[float, float] | None = None,
    y_range: tuple[float, float] | None = None,
    size: tuple[int, int] = (460, 250),
    ticks: int = 5,
) -> LineChart:
    """Lay out a chart.

    Args:
        title: above it.
        curves: label -> (x, y); values that are not finite, or with ``log`` not positive, are left out.
        x_label: of the horizontal axis.
        log: whether the vertical axis is logarithmic.
        x_range, y_range: of the axes; default: those of the values, upwards with 0 unless ``log``.
        size: (width, height) in units of the page.
        ticks: about how many on an axis.
    """
    curves = {label: _usable(curve, log) for label, curve in curves.items()}
    curves = {label: curve for label, curve in curves.items() if curve[0]}
    x_low, x_high = x_range or _span(x for xs, _ in curves.values() for x in xs)
    y_low, y_high = y_range or _span(y for _, ys in curves.values() for y in ys)
    if y_range is None and not log:
        y_low, y_high = min(y_low, 0.0), max(y_high, 0.0)
    x_values, y_values = _ticks(x_low, x_high, ticks, False), _ticks(y_low, y_high, ticks, log)
    if y_range is None and not log:
        y_low, y_high = min(y_low, *y_values), max(y_high, *y_values)
    y_texts = [_text(v) for v in y_values]
    width, height = size
    left, right, top = 10 + 6.5 * max(map(len, y_texts), default=0), width - 12, 12
    bottom = height - (38 if x_label else 22)

    def x_at(x: float) -> float:
        return round(left + (x - x_low) / (x_high - x_low) * (right - left), 1)

    def y_at(y: float) -> float:
        low, high, y = (math.log(v) for v in (y_low, y_high, y)) if log else (y_low, y_high, y)
        return round(bottom - (y - low) / (high - low) * (bottom - top), 1)

    lines = []
    for colour, (label, (xs, ys)) in enumerate(curves.items()):
        points = [(x_at(x), y_at(y)) for x, y in zip(xs, ys, strict=True)]
        stride = -(-len(points) // MAX_POINTS)
        drawn = points[::stride] if stride == 1 else [*points[::stride], points[-1]]
        marks = [(*p, f"{label}: {_text(y)} at {_text(x)}") for p, x, y in zip(points, xs, ys, strict=True)]
        path = " ".join(f"{x},{y}" for x, y in drawn)
        lines.append(PlottedLine(label, path, colour, tuple(marks) if len(marks) <= MAX_MARKS else ()))
    ends = "; ".join(f"{label} from {_text(ys[0])} to {_text(ys[-1])}" for label, (_, ys) in curves.items())
    return LineChart(
        title=title,
        alt=f"{title}: {ends}" if ends else f"{title}: nothing recorded",
        width=width,
        height=height,
        left=left,
        right=right,
        top=top,
        bottom=bottom,
        lines=tuple(lines),
        x_ticks=tuple((x_at(v), _text(v)) for v in x_values),
        y_ticks=tuple((y_at(v), text) for v, text in zip(y_values, y_texts, strict=True)),
        x_label=x_label,
    )


def _usable(curve: Curve, log: bool) -> tuple[list[float], list[float]]:
    pairs = [(x, y) for x, y in zip(*curve, strict=True) if math.isfinite(y) and (y > 0 or not log)]
    return [x for x, _ in pairs], [y for _, y in pairs]


def _span(values: Iterable[float]) -> tuple[float, float]:
    values = list(values) or [1.0, 10.0]
    low, high = min(values), max(values)
    if low == high:
        return (low * 0.9, low * 1.1) if low > 0 else (low - 1, low + 1)
    return low, high


def _ticks(low: float, high: float, count: int, log: bool) -> list[float]:
    from matplotlib.ticker import LogLocator, MaxNLocator

    if log:
        decades = math.log10(high / low)
        subs = (1.0,) if decades > 2 else (1.0, 2.0, 5.0)
        values = LogLocator(subs=subs, numticks=3 * count).tick_values(low, high)
        inside = [float(v) for v in values if low <= v <= high]
        if len(inside) >= 2:
            return inside
    values = MaxNLocator(count, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)
    return [float(v) for v in values if low <= v <= high] or [low, high]


def _text(value: float) -> str:
    if value == int(value) and abs(value) < 1e6:
        return f"{int(value):,}"
    return f"{value:.3g}"
