"""``detrex check-data``: every file of a data set read, a report, pictures, and a cleaned copy on request."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from os.path import expanduser
from pathlib import Path
from typing import Any

from detectron2.config import instantiate
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from detrex.config import ConfigError, load_config
from detrex.data import KINDS, CheckedData, DatasetError, Finding, check_source, open_folder
from detrex.data.checks.findings import summarize
from detrex.data.checks.paths import is_inside
from detrex.data.cleaning import write_fixed_copy
from detrex.data.dataset_check import CheckedFiles, available_cores, check_files
from detrex.data.formats.coco_json import write_json
from detrex.data.formats.reader import open_data
from detrex.data.registry import COCO_MAX_DETS, QUERY_COUNT_KEY
from detrex.distributed.errors import with_exit_status
from detrex.utils.text import count_of, printable
from detrex.visualization.dataset import draw_augmentation, draw_statistics

__all__ = ["build_parser", "check_data", "main"]

DEFAULT_CONFIG = "projects/deformable_detr/configs/custom_small.py"
MAX_CLASSES = 20  # in the printed summary; the json has all
EXIT_TRAINABLE, EXIT_NOT_TRAINABLE, EXIT_USAGE = 0, 1, 2

_EPILOG = """
examples:
  detrex check-data dataloader.data.root=path/to/data_set
  detrex check-data --fix path/to/cleaned dataloader.data.root=path/to/data_set

The output folder receives report.txt, report.json (every finding), statistics.png and samples.png.

exit status: 0 the data set can be trained on (there may be warnings), 1 it cannot (with --fix: the copy cannot), 2
wrong command line or config, 5 memory, disk or network failed
"""


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="detrex check-data",
        description="Check a data set: every annotation and every image file.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config-file", type=expanduser, default=DEFAULT_CONFIG, metavar="FILE",
                        help="config whose augmentation and number of queries are checked (%(default)s)")  # fmt: skip
    parser.add_argument(
        "--output", type=expanduser, default="output/check_data", metavar="FOLDER", help="for the report (%(default)s)"
    )
    parser.add_argument(
        "--fix", type=expanduser, metavar="FOLDER", help="write a cleaned copy, in COCO format, into this new folder"
    )
    parser.add_argument("--num-workers", type=int, default=available_cores(), help="processes (%(default)s)")
    parser.add_argument("opts", nargs="*", metavar="KEY=VALUE", help="overrides of the config")
    return parser


@with_exit_status(OSError)
def main(argv: Sequence[str] | None = None) -> int:
    """Run the check as the command line says; returns the exit status."""
    args = build_parser().parse_intermixed_args(argv)
    try:
        cfg = load_config(args.config_file, args.opts)
        if OmegaConf.select(cfg, "dataloader.data") is None:
            raise ConfigError(f"{args.config_file} has no dataloader.data: it is not for data of your own")
        return check_data(cfg, args.output, fix=args.fix, num_workers=args.num_workers)
    except DatasetError as e:
        if not e.findings:  # a setting, not the data
            raise
        for line in str(e).splitlines():
            print(f"error: {printable(line)}", file=sys.stderr)
        return EXIT_NOT_TRAINABLE


def check_data(cfg: DictConfig, output: str | os.PathLike[str], *, fix: str | None = None, num_workers: int = 1) -> int:
    """Check the data set of a config, print and write the report, draw the pictures.

    Args:
        cfg: with ``dataloader.data``; ``dataloader.train.mapper`` augments the samples.
        output: folder for the report; it must not lie within the data set's.
        fix: folder for a cleaned copy, which is then checked as well.
        num_workers: processes.

    Returns:
        The exit status; with ``fix`` that of the copy.

    Raises:
        DatasetError: the settings are wrong; with ``fix``, see ``write_fixed_copy``.
    """
    folder = Path(output)
    try:
        source = open_data(cfg.dataloader.data)
    except DatasetError as e:
        if e.findings:  # damage, not a setting
            _write_report(folder, {"trainable": False}, e.findings)
        raise
    if is_inside(str(folder), source.root):
        raise DatasetError(f"{folder} lies within the data set, which is not written to; give another --output")
    files = _check(cfg, check_source(source), num_workers)
    checked = files.checked
    summary = _summary(checked)
    _write_report(folder, summary, checked.findings)
    if source.made_split is not None:
        write_json(source.made_split, folder / "split.json")
    _draw(cfg, checked, folder)
    print("\n".join(_text(summary, checked.findings)))
    print(f"Report and pictures: {folder}")
    if fix is None:
        return EXIT_TRAINABLE if checked.trainable else EXIT_NOT_TRAINABLE
    copy = write_fixed_copy(files, fix)
    print(f"\nCleaned copy: {copy}")
    fixed = _check(cfg, check_source(open_folder(copy)), num_workers).checked
    print("\n".join(_text(_summary(fixed), fixed.findings)))
    return EXIT_TRAINABLE if fixed.trainable else EXIT_NOT_TRAINABLE


def _check(cfg: DictConfig, checked: CheckedData, num_workers: int) -> CheckedFiles:
    total = sum(len(data.records) for data in checked.splits.values())
    with _progress(total) as advance:
        return check_files(
            checked,
            num_workers=num_workers,
            num_queries=OmegaConf.select(cfg, QUERY_COUNT_KEY),
            max_dets=OmegaConf.select(cfg, "dataloader.evaluator.max_dets_per_image") or COCO_MAX_DETS,
            on_progress=advance,
        )


@contextlib.contextmanager
def _progress(total: int) -> Iterator[Any]:
    """A bar on stderr where that is a terminal; yields the function that moves it."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("Reading images", total=total)
        yield lambda count: bar.update(task, completed=count)


def _summary(checked: CheckedData) -> dict[str, Any]:
    splits = {}
    for name, data in checked.splits.items():
        classes = zip(data.class_names, data.count_per_class(), strict=True)
        splits[name] = {
            "annotations": data.json_file,
            "images": len(data.records),
            "boxes": sum(len(r["annotations"]) for r in data.records),
            "boxes_per_class": dict(classes),
        }
    return {
        "trainable": checked.trainable,
        "format": checked.source.format,
        "root": checked.source.root,
        "notes": list(checked.source.notes),
        "split": "made" if checked.source.made_split is not None else "given",
        "splits": splits,
    }


def _text(summary: dict[str, Any], findings: Sequence[Finding], examples: int = 3) -> list[str]:
    lines = []
    if "root" in summary:
        lines.append(f"{summary['root']}: {summary['format']}")
    for name, split in summary.get("splits", {}).items():
        made = " (split made, see split.json)" if summary["split"] == "made" and name in ("train", "val") else ""
        counts = list(split["boxes_per_class"].items())
        classes = ", ".join(f"{n} {c}" for n, c in counts[:MAX_CLASSES]) + (", ..." if counts[MAX_CLASSES:] else "")
        images, boxes = count_of(split["images"], "image"), count_of(split["boxes"], "box")
        lines.append(f"{name}: {images}, {boxes}: {classes}{made}")
    lines += summary.get("notes", [])
    for severity, heading in (("error", "Errors"), ("warning", "Warnings")):
        found = [f for f in findings if KINDS[f.kind].severity == severity]
        lines += [f"{heading}: {len(found) or 'none'}", *(f"  {line}" for line in summarize(found, examples=examples))]
    lines.append("Can be trained on." if summary["trainable"] else "Cannot be trained on as it is.")
    return [printable(line) for line in lines]


def _write_report(folder: Path, summary: dict[str, Any], findings: Sequence[Finding]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    text = "\n".join(_text(summary, findings, examples=len(findings)))
    (folder / "report.txt").write_text(text + "\n", encoding="utf-8")
    items = [
        {"kind": f.kind, "severity": KINDS[f.kind].severity, "split": f.split, "where": f.where, "message": f.message}
        for f in findings
    ]
    write_json({**summary, "counts": Counter(f.kind for f in findings), "findings": items}, folder / "report.json")


def _draw(cfg: DictConfig, checked: CheckedData, folder: Path) -> None:
    usable = {name: data for name, data in checked.splits.items() if data.records and data.class_names}
    if usable:
        draw_statistics(usable, folder / "statistics.png")
    if "train" in usable:
        draw_augmentation(usable["train"], instantiate(cfg.dataloader.train.mapper), folder / "samples.png")
