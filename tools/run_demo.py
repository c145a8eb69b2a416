#!/usr/bin/env python
"""Draw a data set of shapes, train a small Deformable DETR on it, evaluate and show. Done once per seed and folder."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

# In a source tree that is not installed, packages lie beside tools/.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from detrex.cli.demo import print_report, run_demo
from detrex.config import ConfigError


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", default="output/demo", help="folder for everything (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of images, weights and training order (%(default)s)")
    parser.add_argument("opts", nargs="*", metavar="KEY=VALUE", help="overrides of the config")
    return parser


def main() -> int:
    """Exit status: 0, or 2 for a wrong command line or output folder."""
    args = build_parser().parse_args()
    start = time.perf_counter()
    try:
        report = run_demo(args.output, seed=args.seed, overrides=args.opts)
    except (ConfigError, FileExistsError) as e:
        print(f"error: {e}", file=sys.stderr)
        return 2
    print(f"\n== Demo finished in {time.perf_counter() - start:.1f} s")
    print_report(report, args.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
