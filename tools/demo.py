#!/usr/bin/env python
"""Detect objects on images, folders or videos: drawn copies and predictions.json.

python tools/demo.py --weights model_final.pth --input photos/ --output results/
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

# In a source tree that is not installed, packages lie beside tools/.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from detectron2.utils.logger import setup_logger

from detrex.checkpoint import CheckpointError
from detrex.config import ConfigError
from detrex.data import DatasetError
from detrex.inference.annotate import annotate
from detrex.inference.detector import DTYPES, Detector
from detrex.inference.inputs import find_inputs


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", required=True, metavar="FILE", help="checkpoint: path or URL")
    parser.add_argument("--config-file", metavar="FILE", help="config of the model, where the checkpoint holds none")
    parser.add_argument("--input", required=True, nargs="+", metavar="PATH", help="images, videos, folders, patterns")
    parser.add_argument("--output", required=True, metavar="FOLDER", help="where the results go")
    parser.add_argument("--threshold", type=float, default=0.3, help="lowest score shown (%(default)s)")
    parser.add_argument("--class-names", nargs="+", metavar="NAME", help="instead of those in the checkpoint")
    parser.add_argument("--device", help="cpu, cuda, cuda:1 or auto, the GPU if there is one")
    parser.add_argument("--dtype", choices=list(DTYPES), default="float32", help="(%(default)s)")
    parser.add_argument("--opts", nargs="+", default=[], metavar="KEY=VALUE", help="overrides of the config")
    return parser


def main() -> int:
    """Exit status: 0 if at least one file was done, 1 if none, 2 for a wrong command line, config or checkpoint."""
    args = build_parser().parse_args()
    for name in ("detrex", "detectron2", "fvcore"):
        setup_logger(name=name)
    try:
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
    except (ConfigError, CheckpointError, DatasetError, FileNotFoundError, ValueError) as e:
        print(f"error: {e}", file=sys.stderr)
        return 2
    print(f"{len(summary.done)} of {len(files)} files done, {summary.num_detections} detections of score >= "
          f"{args.threshold:g}; pictures and predictions.json in {args.output}")  # fmt: skip
    for path, reason in summary.failed:
        print(f"skipped {path}: {reason}")
    return 0 if summary.done else 1


if __name__ == "__main__":
    sys.exit(main())
