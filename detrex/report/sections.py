"""The sections of the page that are numbers and curves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from detrex.config.serialization import resolved_yaml

from .accuracy import Accuracy, ClassAccuracy, measure, recorded
from .charts import Curve, LineChart, line_chart
from .log_facts import environment, facts
from .mistakes import Confusion, confusion
from .run import MissingPart, Run

__all__ = ["AccuracyTable", "NumberSections", "RunFacts"]

MAX_PANELS = 60  # of precision and recall
PHASES = {"time": "whole step", "data_time": "data", "forward_time": "forward", "backward_time": "backward",
          "optimizer_time": "optimizer"}  # fmt: skip
MEMORY = {"max_rss_mb": "process", "max_mem_mb": "GPU"}


@dataclass(frozen=True)
class RunFacts:
    """The head of the page: label -> value from the log, and the metrics that are shown large."""

    values: Mapping[str, str]
    headline: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class AccuracyTable:
    """An evaluation, the columns of its table, and what the reader should know about where the numbers are from."""

    accuracy: Accuracy
    columns: tuple[str, ...]
    note: str


class NumberSections:
    """Each method returns the content of one section, or raises :class:`MissingPart`.

    Args:
        run: what to report on.
    """

    def __init__(self, run: Run):
        self.run = run

    def facts(self) -> RunFacts:
        """What the log tells of the run as a whole, and its last AP."""
        values = facts(self.run.log())
        try:
            curves = self.run.curves()
        except MissingPart:
            return RunFacts(values, ())
        shown = [("AP", "bbox/AP"), ("AP50", "bbox/AP50"), ("AP75", "bbox/AP75"), ("loss", "total_loss")]
        headline = [(label, f"{curves[name][1][-1]:.1f}") for label, name in shown if name in curves]
        if "lr" in curves:
            headline.append(("iterations", f"{curves['lr'][0][-1] + 1:,}"))
        if "Training time" in values:
            headline.append(("training time", values["Training time"].split(" (")[0]))
        return RunFacts(values, tuple(headline))

    def curves(self) -> list[LineChart]:
        """Losses, AP and learning rate."""
        curves = self.run.curves()
        losses = {name: curve for name, curve in curves.items() if name.startswith("loss_")}
        kinds = [n for n in losses if not any(n.startswith(f"{other}_") for other in losses)]
        first = ["total_loss", *kinds] if "total_loss" in curves else kinds
        charts = [line_chart("Losses of the last layer and their total over all", _pick(curves, first), log=True)]
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
        return [chart for chart in charts if chart.lines]

    def accuracy(self) -> AccuracyTable:
        """AP and AR, whole and per class; without the data, what the run has recorded itself."""
        try:
            accuracy = self._measured()
        except MissingPart as missing:
            accuracy = recorded(self.run.curves())
            return AccuracyTable(accuracy, ("AP",), f"As recorded by the run. AR and the rest: {missing}.")
        columns = tuple(accuracy.classes[0].values) if accuracy.classes else ()
        note = f"{accuracy.images:,} images; at most {accuracy.limit} detections count on each."
        return AccuracyTable(accuracy, columns, note)

    def precision_recall(self) -> list[LineChart]:
        """A panel for each class; of very many classes, those of the lowest AP."""
        accuracy = self._measured()
        classes = [c for c in accuracy.classes if c.precision]
        if len(classes) > MAX_PANELS:
            classes = sorted(classes, key=lambda c: c.values["AP"])[:MAX_PANELS]
        return [_panel(c, accuracy) for c in classes]

    def confusion(self) -> Confusion:
        """What the objects were detected as."""
        return confusion(self.run.matches(), self.run.data().names)

    def cost(self) -> list[LineChart]:
        """Time and memory over the run."""
        curves = self.run.curves()
        charts = [_chart("Seconds of an iteration", curves, PHASES), _chart("Peak memory in MiB", curves, MEMORY)]
        shown = [chart for chart in charts if chart.lines]
        if not shown:
            raise MissingPart("metrics.json has recorded neither times nor memory")
        return shown

    def config(self) -> str:
        """The config, as people read it."""
        return resolved_yaml(self.run.config())

    def environment(self) -> str:
        """The software that the run was made with."""
        text = environment(self.run.log())
        if not text:
            raise MissingPart("log.txt does not describe the environment")
        return text

    def _measured(self) -> Accuracy:
        evaluator = self.run.config().dataloader.get("evaluator") or {}
        return measure(self.run.data(), self.run.detections(), evaluator.get("max_dets_per_image"))


def _pick(curves: Mapping[str, Curve], names) -> dict[str, Curve]:
    return {name: curves[name] for name in names if name in curves}


def _chart(title: str, curves: Mapping[str, Curve], labels: Mapping[str, str], **options) -> LineChart:
    """A chart of those curves that there are, under their labels."""
    return line_chart(title, {labels[name]: curve for name, curve in _pick(curves, labels).items()}, **options)


def _panel(found: ClassAccuracy, accuracy: Accuracy) -> LineChart:
    names = {"0.50": "IoU 0.50", "0.75": "IoU 0.75", "mean": "mean over IoU"}
    curves = {names[iou]: (accuracy.recall_R.tolist(), values.tolist()) for iou, values in found.precision.items()}
    return line_chart(
        f"{found.name}: AP {found.values['AP']:.1f}",
        curves,
        x_label="recall",
        x_range=(0, 1),
        y_range=(0, 1),
        size=(220, 180),
        ticks=3,
    )
