"""``detrex migrate``: rewrite a config file of the original detrex."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from os.path import expanduser
from pathlib import Path

from detrex.compat.migration import migrate
from detrex.compat.names import is_original_config
from detrex.compat.original import load_original_config
from detrex.config import ConfigError, find_config
from detrex.distributed.errors import with_exit_status

__all__ = ["build_parser", "main"]


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="detrex migrate",
        description="Print a config file of the original detrex in the form it has here.",
        epilog="example: detrex migrate projects/deformable_detr/configs/deformable_detr_r50_50ep.py -o new.py",
    )
    parser.add_argument(
        "config_file", type=expanduser, help="of the original's projects deformable_detr or h_deformable_detr"
    )
    parser.add_argument("-o", "--output", type=expanduser, help="file to write (default: print)")
    parser.add_argument("overrides", nargs="*", help="key=value by the keys of the file, become part of the result")
    return parser


@with_exit_status(OSError)
def main(argv: Sequence[str] | None = None) -> int:
    """Rewrite the config of the command line; returns the exit status: 0, or 2 for wrong input."""
    args = build_parser().parse_intermixed_args(argv)
    path = find_config(args.config_file)
    if not is_original_config(path):
        raise ConfigError(f"{path} takes nothing from the original detrex: there is nothing to rewrite")
    text = migrate(load_original_config(path, args.overrides))
    if args.output is None:
        print(text, end="")
    else:
        Path(args.output).write_text(text, encoding="utf-8")
    return 0
