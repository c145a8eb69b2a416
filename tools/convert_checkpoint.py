#!/usr/bin/env python
"""Rewrite a checkpoint of any dialect: as ours, detrex's, the official repositories' or Hugging Face's.

    python tools/convert_checkpoint.py r50_deformable_detr.pth ours.pth
    python tools/convert_checkpoint.py output/model_final.pth official.pth --to official --verify
    python tools/convert_checkpoint.py hf://SenseTime/deformable-detr detrex.pth --to detrex

Nothing has to be converted to be used here: train.init_checkpoint takes files of every dialect.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

# In a source tree that is not installed, packages lie beside tools/.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from detrex.checkpoint import CheckpointError
from detrex.checkpoint.conversion import LAYOUTS, convert
from detrex.config import ConfigError

TOLERANCE = 1e-5


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", metavar="SRC", help="path, folder, URL, hf://organisation/name or detectron2://")
    parser.add_argument("target", metavar="DST", help=".pth or .safetensors; with --to hf a folder")
    parser.add_argument("--to", choices=LAYOUTS, default="ours", help="layout of DST (%(default)s)")
    parser.add_argument(
        "--config-file", default="", metavar="FILE", help="config of the model, for hf and --verify; found if published"
    )
    parser.add_argument(
        "--classes", type=int, choices=(80, 91), help="rows of a COCO classifier (80; official and hf: 91)"
    )
    parser.add_argument("--verify", action="store_true", help="run both files, compare the outputs")
    parser.add_argument("--drop-unknown", action="store_true", help="leave out tensors without a rule")
    parser.add_argument("--force", action="store_true", help="write over DST")
    return parser


def main() -> int:
    """Exit status: 0, 1 if the outputs differ, 2 for a wrong command line, config or checkpoint."""
    args = build_parser().parse_args()
    try:
        result = convert(
            args.source,
            args.target,
            layout=args.to,
            config_file=args.config_file,
            classes=args.classes,
            drop_unknown=args.drop_unknown,
            verify=args.verify,
            force=args.force,
        )
    except (CheckpointError, ConfigError, OSError) as e:
        print(f"error: {e}", file=sys.stderr)
        return 2
    print("\n".join([*result.report, f"written: {', '.join(result.written)}"]))
    if result.difference is None:
        return 0
    print(f"largest difference of the outputs of both files: {result.difference:.3g}")
    return 0 if result.difference <= TOLERANCE else 1


if __name__ == "__main__":
    sys.exit(main())
