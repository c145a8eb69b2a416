"""``detrex visualize``: training data, detections and training curves as pictures."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from itertools import islice
from os.path import expanduser
from pathlib import Path

from detectron2.utils.env import seed_all_rng

from detrex.config import load_config
from detrex.data import prepare_data
from detrex.distributed.errors import with_exit_status
from detrex.utils.text import count_of, printable
from detrex.visualization.charts import compare_runs, read_metrics
from detrex.visualization.dataset import annotated_images, draw_samples, loaded_samples
from detrex.visualization.results import draw_results

__all__ = ["build_parser", "main"]

SOURCES = ("loader", "annotations")
DEFAULT_METRICS = ("bbox/AP", "bbox/AP50", "total_loss", "lr")


def build_parser() -> argparse.ArgumentParser:
    """The command line without the arguments of its views, which ``view_parsers`` has."""
    views = "\n".join(f"  {name:<9} {parser.description}" for name, parser in view_parsers().items())
    parser = argparse.ArgumentParser(
        prog="detrex visualize",
        description="Draw training data, detections or training curves.",
        epilog=f"views:\n{views}\n\nexample:\n  detrex visualize curves output/first output/second\n\n"
        "detrex visualize VIEW --help shows a view's arguments.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("view", choices=list(VIEWS), help="what to draw")
    return parser


def view_parsers() -> dict[str, argparse.ArgumentParser]:
    """The command line of each view."""
    dataset = argparse.ArgumentParser(
        prog="detrex visualize dataset",
        description="Draw what a model is trained on: images with boxes and class names.",
        epilog="example: detrex visualize dataset --config-file output/my_run/config.yaml --output pictures",
    )
    dataset.add_argument("--config-file", type=expanduser, required=True, metavar="FILE", help="config of a run")
    dataset.add_argument(
        "--output", required=True, type=expanduser, metavar="FOLDER", help="grid.png and single pictures go here"
    )
    dataset.add_argument("--source", choices=SOURCES, default="loader",
                         help="loader: augmented, as the model gets them, padding striped; annotations: as they lie on "
                         "the disk (%(default)s)")  # fmt: skip
    dataset.add_argument("--limit", type=int, default=16, metavar="N", help="images (%(default)s)")
    dataset.add_argument("opts", nargs="*", metavar="KEY=VALUE", help="overrides of the config")

    results = argparse.ArgumentParser(
        prog="detrex visualize results",
        description="Draw an evaluation's detections beside the ground truth.",
        epilog="example: detrex visualize results --results output/coco_instances_results.json --annotations val.json "
        "--image-root val/ --output pictures --worst",
    )
    results.add_argument(
        "--results", required=True, type=expanduser, metavar="JSON", help="coco_instances_results.json of an evaluation"
    )
    results.add_argument(
        "--annotations", required=True, type=expanduser, metavar="JSON", help="COCO json of the data set"
    )
    results.add_argument("--image-root", required=True, type=expanduser, metavar="FOLDER", help="its images")
    results.add_argument(
        "--output", required=True, type=expanduser, metavar="FOLDER", help="pictures and summary.json go here"
    )
    results.add_argument("--threshold", type=float, default=0.3, help="lowest score shown (%(default)s)")
    results.add_argument("--worst", action="store_true", help="images with the most mistakes first")
    results.add_argument("--limit", type=int, metavar="N", help="images (all)")

    curves = argparse.ArgumentParser(
        prog="detrex visualize curves",
        description="Draw the metrics of one or several runs beside each other.",
        epilog="example: detrex visualize curves output/first output/second --metrics bbox/AP total_loss",
    )
    curves.add_argument(
        "runs", nargs="+", metavar="RUN", type=expanduser, help="output folder of a run, or its metrics.json"
    )
    curves.add_argument("--labels", nargs="+", help="one for each run; by default the folders' names")
    curves.add_argument("--metrics", nargs="+", help=f"default: those of {', '.join(DEFAULT_METRICS)}")
    curves.add_argument("--output", type=expanduser, default="curves.png", help="picture to write (%(default)s)")
    return {"dataset": dataset, "results": results, "curves": curves}


@with_exit_status(OSError, ValueError)
def main(argv: Sequence[str] | None = None) -> int:
    """Draw as the command line says; returns the exit status: 0, or 2 for wrong input."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] not in VIEWS:
        build_parser().parse_args(words)  # shows the help, or what is wrong
    parser = view_parsers()[words[0]]
    args = parser.parse_intermixed_args(words[1:])
    if getattr(args, "limit", None) is not None and args.limit < 1:
        parser.error("--limit must be at least 1")
    print(printable(VIEWS[words[0]](args)))
    return 0


def _dataset(args: argparse.Namespace) -> str:
    cfg = load_config(args.config_file, args.opts)
    prepare_data(cfg)
    seed_all_rng(None if cfg.train.seed < 0 else cfg.train.seed)
    cfg.dataloader.train.num_workers = 0  # a few images: a worker takes longer to start than to load them
    stream = loaded_samples(cfg) if args.source == "loader" else annotated_images(cfg)
    samples = list(islice(stream, args.limit))
    draw_samples(samples, args.output)
    objects = sum(len(sample.layer.labels) for sample in samples)
    return f"{count_of(len(samples), 'image')} with {count_of(objects, 'object')}: {args.output}"


def _results(args: argparse.Namespace) -> str:
    drawn = draw_results(
        args.results,
        args.annotations,
        args.image_root,
        args.output,
        threshold=args.threshold,
        worst_first=args.worst,
        limit=args.limit,
    )
    objects, missed, false = (sum(getattr(r, name) for r in drawn) for name in ("objects", "missed", "false"))
    return (
        f"{count_of(len(drawn), 'image')} with {count_of(objects, 'object')}, {missed} missed, "
        f"{count_of(false, 'false detection')}: {args.output}"
    )


def _curves(args: argparse.Namespace) -> str:
    files = [path / "metrics.json" if path.is_dir() else path for path in map(Path, args.runs)]
    labels = args.labels or [path.resolve().parent.name for path in files]
    if len(labels) != len(files) or len(set(labels)) != len(labels):
        raise ValueError(f"{len(files)} runs need as many different --labels, not {', '.join(labels)}")
    runs = {label: read_metrics(path) for label, path in zip(labels, files, strict=True)}
    chosen = args.metrics or [name for name in DEFAULT_METRICS if any(name in curves for curves in runs.values())]
    if not chosen:
        raise ValueError(f"{', '.join(map(str, files))}: none of {', '.join(DEFAULT_METRICS)}; give --metrics")
    compare_runs(runs, chosen, args.output)
    return f"{', '.join(chosen)} of {', '.join(labels)}: {args.output}"


VIEWS: dict[str, Callable[[argparse.Namespace], str]] = {"dataset": _dataset, "results": _results, "curves": _curves}
