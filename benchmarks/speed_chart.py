"""Draw the README's chart of speed beside Hugging Face's Deformable DETR, from the committed results.

    python benchmarks/speed_chart.py

Reads ``results/{inference,train_step}[_reference].json`` and writes ``docs/images/speed.png``. The bars are ratios of
CPU seconds, because the machine was shared. Versions, commit and date of the figures are in those files.
"""

from __future__ import annotations

import json
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot

HERE = Path(__file__).resolve().parent
PANELS = {"inference": "Inference", "train_step": "Training step"}
VARIANTS = {"_reference": ("plain PyTorch operator", "#9db7dd"), "": ("compiled operator", "#1f5fbf")}
OUTPUT = HERE.parent / "docs" / "images" / "speed.png"


def draw() -> None:
    """Write the chart: a panel for inference and one for training, a group of bars for each size."""
    figure, axes = pyplot.subplots(1, len(PANELS), figsize=(11, 3.4), layout="constrained")
    for axis, (name, title) in zip(axes, PANELS.items(), strict=True):
        for position, (suffix, (label, color)) in enumerate(VARIANTS.items()):
            result = json.loads((HERE / "results" / f"{name}{suffix}.json").read_text(encoding="utf-8"))
            ratios = [row["ratio"] for row in result["rows"]]
            places = [index + 0.4 * (position - 0.5) for index in range(len(ratios))]
            axis.bar_label(axis.bar(places, ratios, 0.38, color=color, label=label), fmt="%.1f", padding=2)
        axis.axhline(1, color="black", linewidth=0.8)
        axis.set_xticks(range(len(ratios)), [_size(row["batch x height x width"]) for row in result["rows"]])
        axis.set(title=title, ylabel="times as fast as transformers")
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].legend(loc="upper left", frameon=False)
    figure.suptitle(f"R50 two-stage, float32, {result['environment']['cpu']}", fontsize="medium")
    figure.savefig(OUTPUT, dpi=110)


def _size(text: str) -> str:
    batch, height, width = text.split("x")
    return f"{height} x {width}\nbatch {batch}"


if __name__ == "__main__":
    draw()
