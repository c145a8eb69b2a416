"""The page: its sections in order, each with its content or the reason why it has none."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

import detrex
from detrex.utils.text import printable

from .numbers import NumberSections
from .pictures import PictureSections
from .run_output import MissingPartError, RunOutput

__all__ = ["Section", "write_report"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Section:
    """A section of the page.

    Attributes:
        key: anchor, and name of the macro that draws it.
        title: heading.
        content: what the macro gets; None where the run lacks it.
        missing: why, as a sentence; "" where there is content.
        failed: whether an error is the reason, and not a part that the run lacks.
    """

    key: str
    title: str
    content: Any
    missing: str = ""
    failed: bool = False


def write_report(
    folder: str | os.PathLike[str],
    output: str | os.PathLike[str] | None = None,
    *,
    overrides: Sequence[str] = (),
    threshold: float = 0.3,
    images: int = 6,
    mistakes: int = 12,
) -> list[Section]:
    """Write a self-contained HTML page about a run.

    Whatever the run lacks is said in its place; a part that cannot be read does not stop the others.

    Args:
        folder: the run's output folder.
        output: file to write; None is ``report.html`` in that folder.
        overrides: of the run's config, such as where the data are on this machine.
        threshold: score from which a detection counts, in pictures and in the confusion matrix.
        images: pairs of ground truth and prediction. mistakes: false detections, and as many misses.

    Returns:
        The sections, for those who want to know what is missing.

    Raises:
        NotADirectoryError: no such folder. ConfigError: an override that does not fit the config.
    """
    run = RunOutput(folder, overrides, threshold=threshold)
    if overrides:
        _ = run.config  # wrong ones are an error and no missing part
    numbers, pictures = NumberSections(run), PictureSections(run, images=images, mistakes=mistakes)
    parts: list[tuple[str, str, Callable[[], Any]]] = [
        ("facts", "The run", numbers.facts),
        ("accuracy", "Accuracy", numbers.accuracy),
        ("curves", "Training curves", numbers.curves),
        ("precision_recall", "Precision and recall", numbers.precision_recall),
        ("confusion", "Confusion matrix", numbers.confusion),
        ("predictions", "Predictions beside ground truth", pictures.predictions),
        ("false_detections", "Worst false detections", pictures.false_detections),
        ("missed_objects", "Largest missed objects", pictures.missed_objects),
        ("sampling", "Sampling points", pictures.sampling),
        ("proposals", "Encoder proposals", pictures.proposals),
        ("cost", "Time and memory", numbers.cost),
        ("config", "Configuration", numbers.config),
        ("environment", "Environment", numbers.environment),
    ]
    sections = [_section(*part) for part in parts]
    environment = Environment(
        loader=PackageLoader("detrex.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template("page.html").render(
        name=Path(folder).resolve().name,
        sections=sections,
        threshold=threshold,
        written=datetime.now().strftime("%Y-%m-%d %H:%M"),
        version=detrex.__version__,
    )
    target = Path(output) if output is not None else Path(folder) / "report.html"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(page, encoding="utf-8")
    return sections


def _shown(value: Any) -> Any:
    """Text without control characters and lone surrogates, its lines kept; markup as it is."""
    if not isinstance(value, str) or isinstance(value, Markup):
        return value
    return "\n".join(map(printable, value.split("\n")))


def _section(key: str, title: str, make: Callable[[], Any]) -> Section:
    try:
        return Section(key, title, make())
    except MissingPartError as missing:
        return Section(key, title, None, str(missing))
    except Exception as error:  # whatever is wrong with one part, the others are worth having
        logger.exception("Report: %s cannot be made", title)
        return Section(key, title, None, f"{type(error).__name__}: {error}", failed=True)
