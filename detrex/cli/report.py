"""``detrex report``: an HTML page about a run."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from os.path import expanduser

from detrex.distributed.errors import with_exit_status
from detrex.report import write_report
from detrex.utils.text import count_of, printable

__all__ = ["build_parser", "main"]

_EPILOG = """
example:
  detrex report output/my_run

exit status: 0 written (the page names what the run lacks), 1 written but a part of the run could not be read, 2 wrong
command line
"""


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="detrex report",
        description="Write a self-contained HTML page about a run: curves, accuracy, mistakes, a look into the model.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", type=expanduser, metavar="OUTPUT_DIR", help="output folder of a training")
    parser.add_argument("--output", type=expanduser, metavar="FILE", help="page to write (OUTPUT_DIR/report.html)")
    parser.add_argument("--threshold", type=float, default=0.3, help="lowest score that counts (%(default)s)")
    parser.add_argument("--images", type=int, default=6, help="images with predictions (%(default)s)")
    parser.add_argument("--mistakes", type=int, default=12, help="pictures of each kind of mistake (%(default)s)")
    parser.add_argument("opts", nargs="*", metavar="KEY=VALUE", help="overrides of the run's config, such as the place "
                        "of its data on this machine")  # fmt: skip
    return parser


@with_exit_status(OSError)
def main(argv: Sequence[str] | None = None) -> int:
    """Write a page as the command line says; returns the exit status."""
    args = build_parser().parse_intermixed_args(argv)
    output = args.output or os.path.join(args.run, "report.html")
    sections = write_report(
        args.run, output, overrides=args.opts, threshold=args.threshold, images=args.images, mistakes=args.mistakes
    )
    for section in sections:
        if section.missing:
            print(printable(f"{section.title}: {section.missing}"))
    print(printable(f"{sum(not s.missing for s in sections)} of {count_of(len(sections), 'section')}: {output}"))
    return int(any(s.failed for s in sections))
