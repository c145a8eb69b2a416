#!/usr/bin/env python
"""Export a trained detector as a torch.export program and as ONNX, and hold both against it.

python tools/export.py --weights model_final.pth --output FOLDER
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

# In a source tree that is not installed, packages lie beside tools/.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from detectron2.utils.logger import setup_logger

from detrex.checkpoint import CheckpointError
from detrex.config import ConfigError, load_config
from detrex.data import DatasetError
from detrex.export.comparison import TOLERANCE, Comparison, check_sizes, compare, evaluate_each
from detrex.export.program import describe, export_program, save_onnx, save_program
from detrex.export.runtime import ExportedDetector, OnnxDetector, ProgramDetector
from detrex.inference.detector import Detector

BATCHES = (1, 4)


def size(text: str) -> tuple[int, int]:
    """ "480x640" -> (480, 640)."""
    height, width = (int(n) for n in text.split("x"))
    if height < 1 or width < 1:
        raise ValueError(text)
    return height, width


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--config-file", metavar="FILE", help="config, or a run's config.yaml; default: the one in the checkpoint"
    )
    parser.add_argument("--weights", required=True, metavar="FILE", help="checkpoint: path or URL")
    parser.add_argument("--output", required=True, metavar="FOLDER", help="model.onnx and model.pt2 go here")
    parser.add_argument("--formats", nargs="+", choices=["onnx", "pt2"], default=["onnx", "pt2"])
    parser.add_argument("--images", choices=["uint8", "float32"], default="uint8", help="type of the pixels")
    parser.add_argument("--fixed-size", type=size, metavar="HxW", help="for this size alone; smaller images are padded")
    parser.add_argument("--batch-size", type=int, metavar="N", help="for this batch alone")
    parser.add_argument(
        "--check-sizes", type=size, nargs="+", metavar="HxW", help="sizes that are compared; default: by the resizing"
    )
    parser.add_argument("--evaluate", action="store_true", help="AP of the detector and its exports on the test data")
    parser.add_argument("--opts", nargs="+", default=[], metavar="KEY=VALUE", help="overrides of the config")
    return parser


def export(args: argparse.Namespace) -> bool:
    """Export, compare, evaluate; whether all comparisons agree."""
    if args.evaluate and args.config_file is None:
        raise ValueError("--evaluate needs --config-file, a checkpoint does not know its data; a run's is config.yaml")
    overrides = [*args.opts, "train.optimizations.evaluation=none"]
    detector = Detector.from_checkpoint(args.weights, config_file=args.config_file, overrides=overrides, device="cpu")
    metadata = describe(detector)
    dtype = getattr(torch, args.images)
    program = export_program(detector.model, dtype=dtype, fixed_size=args.fixed_size, batch_size=args.batch_size)
    folder, exports = Path(args.output), dict[str, ExportedDetector]()
    folder.mkdir(parents=True, exist_ok=True)
    for name, save, load in (("onnx", save_onnx, OnnxDetector), ("pt2", save_program, ProgramDetector)):
        if name in args.formats:
            path = folder / f"model.{name}"
            save(program, path, metadata)
            exports[name] = load(path)
            print(f"{path}: {os.path.getsize(path) / 1e6:.1f} MB, takes {exports[name].takes()}", flush=True)
    batches = (args.batch_size,) if args.batch_size else BATCHES
    sizes = args.check_sizes or ([args.fixed_size] if args.fixed_size else check_sizes(metadata))
    comparisons = compare(detector.model, exports, sizes, batches)
    print_comparisons(comparisons)
    if args.evaluate:
        cfg = load_config(args.config_file, [*overrides, "train.device=cpu"])
        results = evaluate_each(cfg, {"eager": detector.model, **exports}, folder)
        for name, metrics in results.items():
            print(f"{name:>6}: AP {metrics['AP']:.3f}, AP50 {metrics['AP50']:.3f}, AP75 {metrics['AP75']:.3f}")
    return all(comparison.agrees for comparison in comparisons)


def print_comparisons(comparisons: Sequence[Comparison]) -> None:
    """A table."""
    print(f"\nBeside the detector itself, on {torch.get_num_threads()} thread(s):")
    print("format batch      size detections  box error (px)  of the side  score error  ms (detector)  times faster")
    for c in comparisons:
        print(
            f"{c.name:6} {c.batch:5d} {'x'.join(map(str, c.size)):>9} {c.detections:10d} {c.box_error:15.5f} "
            f"{c.relative_error:12.1e} {c.score_error:12.1e} {1e3 * c.seconds:6.0f} ({1e3 * c.eager_seconds:.0f}) "
            f"{c.eager_seconds / c.seconds:13.2f}" + ("" if c.agrees else "  DIFFERS")
        )
    worst = max(c.relative_error for c in comparisons)
    print(f"Largest box error: {worst:.1e} of the longer side; allowed {TOLERANCE:.0e}")


def main() -> int:
    """Exit status: 0, 1 if an export differs from the detector, 2 for wrong input."""
    args = build_parser().parse_args()
    for name in ("detrex", "detectron2", "fvcore"):
        setup_logger(name=name)
    # Of torch.export, its archives and its translator, about themselves.
    warnings.filterwarnings("ignore", category=FutureWarning, module="copyreg")
    warnings.filterwarnings("ignore", message="The given buffer is not writable")
    logging.getLogger("onnxscript").setLevel(logging.ERROR)
    try:
        return 0 if export(args) else 1
    except (ConfigError, CheckpointError, DatasetError, ImportError, OSError, TypeError, ValueError) as e:
        print(f"error: {e}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
