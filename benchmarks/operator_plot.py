"""The operator's figures as a picture: a panel for each pass, by contestant, or by batch where there are several."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

RATIO = "times grid_sample"
HIDDEN = ("grid_sample", "projections")  # part of a contestant's name: left to the table

Row = Mapping[str, object]


def plot(rows: Sequence[Row], path: Path) -> None:
    """Ratios to grid_sample; rows without one are left out."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    shown = [row for row in rows if row[RATIO] and not any(word in row["contestant"] for word in HIDDEN)]
    passes = list(dict.fromkeys(row["pass"] for row in shown))
    if not passes:
        return
    draw = _by_contestant if len({row["batch"] for row in shown}) == 1 else _by_batch
    figure, axes = pyplot.subplots(1, len(passes), figsize=(7 * len(passes), 5), squeeze=False, layout="constrained")
    for axis, name in zip(axes[0], passes, strict=True):
        draw(axis, [row for row in shown if row["pass"] == name])
        axis.set(title=name, ylabel="times as fast as grid_sample", ylim=(0, None))
    axes[0][-1].legend(fontsize="small")
    figure.savefig(path, dpi=100)


def _by_contestant(axis, rows: Sequence[Row]) -> None:
    sizes = list(dict.fromkeys(row["size"] for row in rows))
    names = list(dict.fromkeys(row["contestant"] for row in rows))
    width = 0.85 / len(names)
    for k, name in enumerate(names):
        found = {row["size"]: row[RATIO] for row in rows if row["contestant"] == name}
        positions = [sizes.index(size) + (k - (len(names) - 1) / 2) * width for size in found]
        axis.bar_label(axis.bar(positions, list(found.values()), width, label=name), fmt="%.0f", fontsize=7)
    axis.axhline(1, color="black", linewidth=0.8)
    axis.set_xticks(range(len(sizes)), [size.replace(", ", "\n") for size in sizes], fontsize="small")


def _by_batch(axis, rows: Sequence[Row]) -> None:
    ours = next(row["contestant"] for row in rows if row["contestant"] in ("cuda", "triton", "cpu"))
    for size in dict.fromkeys(row["size"] for row in rows):
        chosen = [row for row in rows if row["size"] == size and row["contestant"] == ours]
        axis.plot([row["batch"] for row in chosen], [row[RATIO] for row in chosen], marker="o", label=size)
    axis.set_xticks(sorted({row["batch"] for row in rows}))
    axis.set_xlabel("images")
