"""``detrex export``: a detector as ONNX and as a torch.export program, compared with the PyTorch model."""

from __future__ import annotations

import argparse
import logging
import os
import warnings
from collections.abc import Sequence
from os.path import expanduser
from pathlib import Path

import torch
from detectron2.utils.logger import setup_logger

from detrex.config import ConfigError, load_config
from detrex.distributed.errors import with_exit_status
from detrex.export.comparison import TOLERANCE, Comparison, check_sizes, compare, evaluate_each
from detrex.export.program import describe, export_program, save_onnx, save_program
from detrex.export.runtime import ExportedDetector, OnnxDetector, ProgramDetector
from detrex.inference.detector import Detector

__all__ = ["build_parser", "main"]

BATCHES = (1, 4)

_EPILOG = """
example:
  detrex export --weights output/model_final.pth --output exported/

exit status: 0 exported, 1 an export differs from the PyTorch model, 2 wrong command line, config, checkpoint or data
"""


def size(text: str) -> tuple[int, int]:
    """ "480x640" -> (480, 640)."""
    height, width = (int(n) for n in text.split("x"))
    if height < 1 or width < 1:
        raise ValueError(text)
    return height, width


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="detrex export",
        description="Export a trained detector as a torch.export program and as ONNX. Compares both with the PyTorch "
        "model.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--config-file",
        type=expanduser,
        metavar="FILE",
        help="config, or a run's config.yaml; default: the one in the checkpoint",
    )
    parser.add_argument("--weights", type=expanduser, required=True, metavar="FILE", help="checkpoint: path or URL")
    parser.add_argument(
        "--output", type=expanduser, required=True, metavar="FOLDER", help="model.onnx and model.pt2 go here"
    )
    parser.add_argument("--formats", nargs="+", choices=["onnx", "pt2"], default=["onnx", "pt2"])
    parser.add_argument("--images", choices=["uint8", "float32"], default="uint8", help="type of the pixels")
    parser.add_argument("--fixed-size", type=size, metavar="HxW", help="only for this size; smaller images are padded")
    parser.add_argument("--batch-size", type=int, metavar="N", help="only for this batch")
    parser.add_argument(
        "--check-sizes", type=size, nargs="+", metavar="HxW", help="sizes that are compared; default: by the resizing"
    )
    parser.add_argument("--evaluate", action="store_true", help="AP of the detector and its exports on the test data")
    parser.add_argument("--opts", nargs="+", default=[], metavar="KEY=VALUE", help="overrides of the config")
    return parser


@with_exit_status(ImportError, OSError, TypeError, ValueError)
def main(argv: Sequence[str] | None = None) -> int:
    """Export, compare and evaluate as the command line says; returns the exit status."""
    args = build_parser().parse_args(argv)
    for name in ("detrex", "detectron2", "fvcore"):
        setup_logger(name=name)
    # Of torch.export, its archives and its translator, about themselves.
    warnings.filterwarnings("ignore", category=FutureWarning, module="copyreg")
    warnings.filterwarnings("ignore", message="The given buffer is not writable")
    logging.getLogger("onnxscript").setLevel(logging.ERROR)

    if args.evaluate and args.config_file is None:
        raise ConfigError("--evaluate needs --config-file, a checkpoint does not know its data; a run's is config.yaml")
    overrides = [*args.opts, "train.optimizations.evaluation=none"]
    detector = Detector.from_checkpoint(args.weights, config_file=args.config_file, overrides=overrides, device="cpu")
    exports = _export(detector, args)
    sizes = args.check_sizes or ([args.fixed_size] if args.fixed_size else check_sizes(describe(detector)))
    comparisons = compare(detector.model, exports, sizes, (args.batch_size,) if args.batch_size else BATCHES)
    _print_comparisons(comparisons)
    if args.evaluate:
        cfg = load_config(args.config_file, [*overrides, "train.device=cpu"])
        detectors = {"eager": detector.model, **exports}
        results = evaluate_each(cfg, detectors, Path(args.output), class_names=detector.class_names)
        for name, metrics in results.items():
            print(f"{name:>6}: AP {metrics['AP']:.3f}, AP50 {metrics['AP50']:.3f}, AP75 {metrics['AP75']:.3f}")
    return 0 if all(comparison.agrees for comparison in comparisons) else 1


def _export(detector: Detector, args: argparse.Namespace) -> dict[str, ExportedDetector]:
    """Write the files and load them again: format -> detector."""
    program = export_program(
        detector.model, dtype=getattr(torch, args.images), fixed_size=args.fixed_size, batch_size=args.batch_size
    )
    folder, exports = Path(args.output), dict[str, ExportedDetector]()
    folder.mkdir(parents=True, exist_ok=True)
    for name, save, load in (("onnx", save_onnx, OnnxDetector), ("pt2", save_program, ProgramDetector)):
        if name in args.formats:
            path = folder / f"model.{name}"
            save(program, path, describe(detector))
            exports[name] = load(path)
            print(f"{path}: {os.path.getsize(path) / 1e6:.1f} MB, takes {exports[name].takes()}", flush=True)
    return exports


def _print_comparisons(comparisons: Sequence[Comparison]) -> None:
    print(f"\nCompared with the PyTorch model, on {torch.get_num_threads()} thread(s):")
    print("format batch      size detections  box error (px)  of the side  score error  ms (detector)  times faster")
    for c in comparisons:
        print(
            f"{c.name:6} {c.batch:5d} {'x'.join(map(str, c.size)):>9} {c.detections:10d} {c.box_error:15.5f} "
            f"{c.relative_error:12.1e} {c.score_error:12.1e} {1e3 * c.seconds:6.0f} ({1e3 * c.eager_seconds:.0f}) "
            f"{c.eager_seconds / c.seconds:13.2f}" + ("" if c.agrees else "  DIFFERS")
        )
    worst = max(c.relative_error for c in comparisons)
    print(f"Largest box error: {worst:.1e} of the longer side; allowed {TOLERANCE:.0e}")
