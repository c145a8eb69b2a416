#!/usr/bin/env python
"""Draw the demo data set: coloured shapes on textured backgrounds, in COCO format. Does nothing when it is there."""

from __future__ import annotations

import argparse
import time

from detrex.data.datasets.shapes import ShapesParameters, make_demo_data


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    default = ShapesParameters()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", default="datasets/demo_shapes", help="folder to draw into (%(default)s)")
    parser.add_argument("--seed", type=int, default=default.seed, help="seed of all images (%(default)s)")
    parser.add_argument("--num-train", type=int, default=default.num_train, help="training images (%(default)s)")
    parser.add_argument("--num-val", type=int, default=default.num_val, help="validation images (%(default)s)")
    parser.add_argument("--image-size", type=int, default=default.image_size, help="side in pixels (%(default)s)")
    parser.add_argument("--num-workers", type=int, default=1, help="processes (%(default)s)")
    return parser


def main() -> None:
    """Parse the arguments and draw."""
    args = build_parser().parse_args()
    parameters = ShapesParameters(
        seed=args.seed, num_train=args.num_train, num_val=args.num_val, image_size=args.image_size
    )
    start = time.perf_counter()
    drawn = make_demo_data(args.output, parameters, num_workers=args.num_workers)
    what = f"drawn in {time.perf_counter() - start:.1f} s" if drawn else "already there, nothing to do"
    print(f"{args.output}: {args.num_train} training and {args.num_val} validation images, seed {args.seed}: {what}")


if __name__ == "__main__":
    main()
