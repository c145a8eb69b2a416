"""``detrex predict``: detect objects on images, folders and videos."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from os.path import expanduser

from detectron2.utils.logger import setup_logger

from detrex.distributed.errors import with_exit_status
from detrex.inference.annotate import annotate
from detrex.inference.detector import DTYPES, Detector
from detrex.inference.inputs import find_inputs
from detrex.utils.text import count_of, printable

__all__ = ["build_parser", "main"]

_EPILOG = """
example:
  detrex predict --weights output/model_final.pth --input photos/ --output results/

exit status: 0 at least one file was processed, 1 none, 2 wrong command line, config or checkpoint
"""


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="detrex predict",
        description="Detect objects on images, folders or videos. Writes annotated copies and predictions.json.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--weights", type=expanduser, required=True, metavar="FILE", help="checkpoint: path or URL")
    parser.add_argument(
        "--config-file", type=expanduser, metavar="FILE", help="config of the model, where the checkpoint holds none"
    )
    parser.add_argument(
        "--input", type=expanduser, required=True, nargs="+", metavar="PATH", help="images, videos, folders, patterns"
    )
    parser.add_argument("--output", type=expanduser, required=True, metavar="FOLDER", help="where the results go")
    parser.add_argument("--threshold", type=float, default=0.3, help="lowest score shown (%(default)s)")
    parser.add_argument("--class-names", nargs="+", metavar="NAME", help="instead of those in the checkpoint")
    parser.add_argument("--device", help="cpu, cuda, cuda:1 or auto, the GPU if there is one")
    parser.add_argument("--dtype", choices=list(DTYPES), default="float32", help="(%(default)s)")
    parser.add_argument("--opts", nargs="+", default=[], metavar="KEY=VALUE", help="overrides of the config")
    return parser


@with_exit_status(OSError, ValueError)
def main(argv: Sequence[str] | None = None) -> int:
    """Predict as the command line says; returns the exit status."""
    args = build_parser().parse_args(argv)
    for name in ("detrex", "detectron2", "fvcore"):
        setup_logger(name=name)
    files = find_inputs(args.input)
    detector = Detector.from_checkpoint(
        args.weights,
        config_file=args.config_file,
        overrides=args.opts,
        class_names=args.class_names,
        device=args.device,
        dtype=args.dtype,
    )
    summary = annotate(detector, files, args.output, threshold=args.threshold)
    done = f"{len(summary.done)} of {count_of(len(files), 'file')} processed"
    found = f"{count_of(summary.num_detections, 'detection')} of score >= {args.threshold:g}"
    print(printable(f"{done}, {found}; pictures and predictions.json in {args.output}"))
    for path, reason in summary.failed:
        print(printable(f"skipped {path}: {reason}"))
    return 0 if summary.done else 1
