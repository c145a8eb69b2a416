"""``detrex analyze``: parameters, FLOPs and structure of a configured detector."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from os.path import expanduser
from pathlib import Path

from detectron2.utils.analysis import parameter_count_table
from omegaconf import DictConfig
from tabulate import tabulate
from torch import nn

from detrex.analysis.complexity import PUBLISHED, coco_test_sizes, mean_macs, parts_of
from detrex.config import ConfigError, load_config, validate_config
from detrex.config.instantiation import build_on_meta
from detrex.distributed.errors import with_exit_status

__all__ = ["build_parser", "main", "report"]

TASKS = ("parameter", "flop", "structure")
CONVENTION = (
    "FLOPs: one multiply-add is one; convolutions, linear layers and attention products count, and 5 for each value\n"
    "that deformable attention samples; norms, activations, softmax and sums do not. Evaluation mode, one image each."
)
COMPUTED_TWICE = (
    "\n\nWith box refinement the published code computes its box heads twice; ours saves 0.24 G of 300 queries."
)


@with_exit_status()
def main(argv: Sequence[str] | None = None) -> int:
    """Print the report of a command line; returns the exit status: 0, or 2 for wrong input."""
    args = build_parser().parse_intermixed_args(argv)
    cfg = load_config(args.config_file, args.opts)
    validate_config(cfg)
    for section in report(cfg, args):
        print(section, end="\n\n", flush=True)
    return 0


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="detrex analyze",
        description="Print parameters, FLOPs and structure of a configured detector; detrex benchmark has its speed.",
        epilog="example: detrex analyze --config-file projects/deformable_detr/configs/deformable_detr_r50_50ep.py "
        "--compare-published",
    )
    parser.add_argument("--config-file", type=expanduser, required=True, help="config of the model")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=["parameter", "flop"], help="(%(default)s)")
    parser.add_argument(
        "--compare-published", action="store_true", help="print the published row beside ours; tasks parameter and flop"
    )
    parser.add_argument(
        "--image-size", nargs=2, type=int, metavar=("HEIGHT", "WIDTH"),
        help="of one image as the model gets it, instead of 100 of COCO val2017 resized for testing",
    )  # fmt: skip
    parser.add_argument("--depth", type=int, default=2, help="of the table of parameters (%(default)s)")
    parser.add_argument("opts", nargs="*", metavar="KEY=VALUE", help="overrides of the config")
    return parser


def report(cfg: DictConfig, args: argparse.Namespace) -> Iterator[str]:
    """The sections of the report, each as soon as it is known.

    Raises:
        ConfigError: if ``--compare-published`` is asked of a config whose model has no published row.
    """
    published = PUBLISHED.get(Path(args.config_file).stem.removesuffix("_official"))
    if args.compare_published and published is None:
        raise ConfigError(f"{args.config_file} has no published cost; there is one for {', '.join(PUBLISHED)}")
    model = build_on_meta(cfg)
    sizes = {tuple(args.image_size): 1} if args.image_size else coco_test_sizes()
    ours: dict[str, float] = {}
    if "structure" in args.tasks:
        yield str(model)
    if "parameter" in args.tasks:
        yield parameter_count_table(model, max_depth=args.depth)
        ours["parameters (M)"] = sum(p.numel() for p in model.parameters()) / 1e6
        yield _parameter_summary(model)
    if "flop" in args.tasks:
        macs = mean_macs(model, sizes)
        ours["FLOPs (G)"] = sum(macs.values()) / 1e9
        yield _flop_table(macs, sizes)
    if args.compare_published and ours:
        twice = "" if model.transformer.decoder.refinement.shared_heads else COMPUTED_TWICE
        theirs = {"parameters (M)": published.parameters, "FLOPs (G)": published.gflops}
        rows = [["published", *(theirs[key] for key in ours)], ["here", *(f"{value:.2f}" for value in ours.values())]]
        yield tabulate(rows, headers=["", *ours], tablefmt="pipe", disable_numparse=True) + twice


def _parameter_summary(model: nn.Module) -> str:
    rows = [
        (name, f"{sum(p.numel() for p in part.parameters()) / 1e6:.2f}",
         f"{sum(p.numel() for p in part.parameters() if p.requires_grad) / 1e6:.2f}")
        for name, part in [*parts_of(model).items(), ("total", model)]
    ]  # fmt: skip
    return tabulate(rows, headers=["part", "parameters (M)", "trained (M)"], tablefmt="pipe", disable_numparse=True)


def _flop_table(macs: Mapping[str, float], sizes: Mapping[tuple[int, int], int]) -> str:
    rows = [(name, f"{value / 1e9:.2f}") for name, value in [*macs.items(), ("total", sum(macs.values()))]]
    number = sum(sizes.values())
    what = f"one image of {'x'.join(map(str, next(iter(sizes))))}" if number == 1 else f"mean of {number} COCO images"
    table = tabulate(rows, headers=["part", f"FLOPs (G), {what}"], tablefmt="pipe", disable_numparse=True)
    return f"{table}\n\n{CONVENTION}"
