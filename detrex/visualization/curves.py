"""Curves of several runs beside each other. ``tools/plot_metrics.py`` is a thin shell around :func:`main`."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from detrex.inference.drawing import read_metrics

__all__ = ["build_parser", "compare_runs", "main"]

DEFAULT_METRICS = ("bbox/AP", "bbox/AP50", "total_loss", "lr")
COLUMNS = 2

Curves = Mapping[str, tuple[Sequence[int], Sequence[float]]]


def compare_runs(runs: Mapping[str, Curves], metrics: Sequence[str], output: str | os.PathLike[str]) -> None:
    """Draw a panel for each metric with a line for each run.

    Args:
        runs: label -> curves, as :func:`detrex.inference.drawing.read_metrics` gives them.
        metrics: names; a run that lacks one has no line there.
        output: picture to write; the type follows from the suffix.

    Raises:
        ValueError: a metric that no run has recorded; lists those that there are.
    """
    recorded = {name for curves in runs.values() for name in curves}
    unknown = [name for name in metrics if name not in recorded]
    if unknown:
        raise ValueError(f"no run has recorded {', '.join(unknown)}; there are {', '.join(sorted(recorded))}")
    from matplotlib.figure import Figure  # without pyplot: no window system, no global state

    columns = min(COLUMNS, len(metrics))
    rows = -(-len(metrics) // columns)
    figure = Figure(figsize=(6.5 * columns, 3.6 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).flatten()
    for axis, name in zip(axes, metrics, strict=False):
        for label, curves in runs.items():
            if name in curves:
                axis.plot(*curves[name], label=label, marker="o" if len(curves[name][0]) < 50 else "", markersize=3)
        axis.set(title=name, xlabel="iteration", yscale="log" if "loss" in name else "linear")
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
    for axis in axes[len(metrics) :]:
        axis.remove()
    figure.savefig(output, dpi=110)


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description="Draw the metrics of one or several runs beside each other.")
    parser.add_argument("runs", nargs="+", metavar="RUN", type=Path, help="output folder of a run, or its metrics.json")
    parser.add_argument("--labels", nargs="+", help="one for each run; by default the folders' names")
    parser.add_argument("--metrics", nargs="+", default=None, help=f"default: those of {', '.join(DEFAULT_METRICS)}")
    parser.add_argument("--output", default="curves.png", help="picture to write (%(default)s)")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: 0, or 2 for a wrong command line or a run without metrics."""
    args = build_parser().parse_args(argv)
    files = [path / "metrics.json" if path.is_dir() else path for path in args.runs]
    labels = args.labels or [path.resolve().parent.name for path in files]
    try:
        if len(labels) != len(files) or len(set(labels)) != len(labels):
            raise ValueError(f"{len(files)} runs need as many different --labels, not {', '.join(labels)}")
        runs = {label: read_metrics(path) for label, path in zip(labels, files, strict=True)}
        chosen = args.metrics or [name for name in DEFAULT_METRICS if any(name in curves for curves in runs.values())]
        if not chosen:
            raise ValueError(f"{', '.join(map(str, files))}: none of {', '.join(DEFAULT_METRICS)}; give --metrics")
        compare_runs(runs, chosen, args.output)
    except (OSError, ValueError) as e:
        print(f"error: {e}", file=sys.stderr)
        return 2
    print(f"{', '.join(chosen)} of {', '.join(labels)}: {args.output}")
    return 0
