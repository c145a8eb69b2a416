"""The sections of the page that are numbers and curves."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from markupsafe import Markup

from detrex.analysis.mistakes import Confusion, confusion
from detrex.config.serialization import resolved_yaml
from detrex.data.coco_metrics import RECALLS_R, SUMMARY, BoxMetrics
from detrex.utils.text import count_of
from detrex.visualization.charts import Chart, Curve, chart_svg

from .run_output import MissingPartError, RunOutput, environment, log_facts

__all__ = ["AccuracyTable", "NumberSections", "PageChart", "RunFacts"]

MAX_PANELS = 60  # of precision and recall
PHASES = {"time": "step", "data_time": "data", "forward_time": "forward", "backward_time": "backward",
          "optimizer_time": "optimizer"}  # fmt: skip
MEMORY = {"max_rss_mb": "process", "max_mem_mb": "GPU"}

Values = Mapping[str, float | None]  # in percent, None where undefined


@dataclass(frozen=True)
class RunFacts:
    """The head of the page: label -> value from the log, and the metrics that are shown large."""

    values: Mapping[str, str]
    headline: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class AccuracyTable:
    """An evaluation.

    Attributes:
        total: metric -> percent over all classes.
        classes: (name, objects without crowds or None where not known, metric -> percent) by ascending category id.
        note: where the numbers are from.
    """

    total: Values
    classes: tuple[tuple[str, int | None, Values], ...]
    note: str


@dataclass(frozen=True)
class PageChart:
    """A chart of the page.

    Attributes:
        title: above it. alt: what it shows, for those who do not see it.
        labels: of the legend, in the order of the page's palette.
        width, height: of the SVG in its units. body: what is inside it.
    """

    title: str
    alt: str
    labels: tuple[str, ...]
    width: int
    height: int
    body: Markup

    @classmethod
    def of(cls, chart: Chart, *, size: tuple[int, int] = (460, 250), ticks: int = 5) -> PageChart:
        """Draw a chart; ``size`` and ``ticks`` as for ``chart_svg``."""
        body = Markup(chart_svg(chart, size=size, ticks=ticks))
        return cls(chart.title, chart.alt, tuple(chart.lines), *size, body)


class NumberSections:
    """Each method returns the content of one section, or raises :class:`MissingPartError`.

    Args:
        run: what to report on.
    """

    def __init__(self, run: RunOutput):
        self.run = run

    def facts(self) -> RunFacts:
        """What the log tells of the run, and its last AP."""
        values = log_facts(self.run.log)
        try:
            curves = self.run.curves
        except MissingPartError:
            return RunFacts(values, ())
        shown = [("AP", "bbox/AP"), ("AP50", "bbox/AP50"), ("AP75", "bbox/AP75"), ("loss", "total_loss")]
        headline = [(label, f"{curves[name][1][-1]:.1f}") for label, name in shown if name in curves]
        if "lr" in curves:
            headline.append(("iterations", f"{curves['lr'][0][-1] + 1:,}"))
        if "Training time" in values:
            headline.append(("training time", values["Training time"].split(" (")[0]))
        return RunFacts(values, tuple(headline))

    def curves(self) -> list[PageChart]:
        """Losses, AP and learning rate."""
        curves = self.run.curves
        losses = [name for name in curves if name.startswith("loss_")]
        kinds = [n for n in losses if not any(n.startswith(f"{other}_") for other in losses)]
        first = {name: name for name in ("total_loss", *kinds)}
        charts = [_chart("Losses of the last layer and their total over all", curves, first, log=True)]
        accuracy = {f"bbox/{name}": name for name in ("AP", "AP50", "AP75")}
        charts.append(_chart("AP in percent", curves, accuracy, y_range=(0, 100)))
        by_class = {name: name.removeprefix("bbox/AP-") for name in curves if name.startswith("bbox/AP-")}
        if 1 < len(by_class) <= 8:
            charts.append(_chart("AP of each class in percent", curves, by_class, y_range=(0, 100)))
        charts.append(_chart("Learning rate", curves, {"lr": "learning rate"}))
        charts.append(_chart("Norm of the gradient before clipping", curves, {"grad_norm": "norm"}, log=True))
        for kind in kinds:
            layers = {n: n.removeprefix(kind).lstrip("_") or "last" for n in losses if f"{n}_".startswith(f"{kind}_")}
            if len(layers) > 1:
                charts.append(_chart(f"{kind} of each layer", curves, layers, log=True))
        return _drawn(charts)

    def accuracy(self) -> AccuracyTable:
        """AP and AR, overall and per class, as the last evaluation found them."""
        try:
            metrics = self.run.metrics
        except MissingPartError as missing:
            return self._recorded(f"AR and the rest: {missing}.")
        classes = zip(metrics.class_names, metrics.num_objects, map(_values, metrics.per_class()), strict=True)
        note = f"{count_of(metrics.num_images, 'image')}; at most {metrics.max_dets[-1]} detections of a class count."
        return AccuracyTable(_values(metrics), tuple(classes), note)

    def precision_recall(self) -> list[PageChart]:
        """A panel for each class; of very many classes, those of the lowest AP."""
        shown = [m for m in self.run.metrics.per_class() if m.curves()]
        if len(shown) > MAX_PANELS:
            shown = sorted(shown, key=lambda m: m.summary()["AP"])[:MAX_PANELS]
        return [_panel(metrics) for metrics in shown]

    def confusion(self) -> Confusion:
        """What the objects were detected as."""
        return confusion(self.run.matches, self.run.data.names)

    def cost(self) -> list[PageChart]:
        """Time and memory over the run."""
        curves = self.run.curves
        shown = _drawn(
            [_chart("Seconds of an iteration", curves, PHASES), _chart("Peak memory in MiB", curves, MEMORY)]
        )
        if not shown:
            raise MissingPartError("metrics.json has recorded neither times nor memory")
        return shown

    def config(self) -> str:
        """The config, as people read it."""
        return resolved_yaml(self.run.config)

    def environment(self) -> str:
        """The software that the run was made with."""
        text = environment(self.run.log)
        if not text:
            raise MissingPartError("log.txt does not describe the environment")
        return text

    def _recorded(self, note: str) -> AccuracyTable:
        """What ``metrics.json`` has of the last evaluation, where another evaluator than ours or an older one ran."""
        recorded = {n.removeprefix("bbox/"): ys[-1] for n, (_, ys) in self.run.curves.items() if n.startswith("bbox/")}
        if not recorded:
            raise MissingPartError("the run has recorded no evaluation")
        classes = tuple((n.removeprefix("AP-"), None, {"AP": v}) for n, v in recorded.items() if n.startswith("AP-"))
        return AccuracyTable({name: recorded.get(name) for name in SUMMARY}, classes, f"As recorded by the run. {note}")


def _values(metrics: BoxMetrics) -> Values:
    values = metrics.summary() | metrics.recalls()
    return {name: value if math.isfinite(value) else None for name, value in values.items()}


def _chart(title: str, curves: Mapping[str, Curve], labels: Mapping[str, str], **options) -> Chart:
    """A chart of those curves that there are, under their labels."""
    return Chart(title, {label: curves[name] for name, label in labels.items() if name in curves}, **options)


def _drawn(charts: Iterable[Chart]) -> list[PageChart]:
    return [PageChart.of(chart) for chart in charts if chart.lines]


def _panel(metrics: BoxMetrics) -> PageChart:
    names = {"0.50": "IoU 0.50", "0.75": "IoU 0.75", "mean": "mean over IoU"}
    curves = {names[iou]: (RECALLS_R.tolist(), values.tolist()) for iou, values in metrics.curves().items()}
    title = f"{metrics.class_names[0]}: AP {metrics.summary()['AP']:.1f}"
    chart = Chart(title, curves, x_label="recall", x_range=(0, 1), y_range=(0, 1))
    return PageChart.of(chart, size=(220, 180), ticks=3)
