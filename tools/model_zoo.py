#!/usr/bin/env python
"""Published checkpoints: list them; fetch, hash and evaluate them beside the published AP; write the README tables."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

# In a source tree that is not installed, packages lie beside tools/.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from detrex.cli.zoo import PROJECTS, evaluate_entries, select_entries, update_readme


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("action", choices=["list", "evaluate", "readme"])
    parser.add_argument("pattern", nargs="?", default="", help="take entries whose source, config or URL holds this")
    parser.add_argument("--checkpoints", type=Path, help="folder with files that are not to be downloaded")
    parser.add_argument(
        "--record", type=Path, default=Path("output/zoo/sha256.json"), help="hashes of first downloads (%(default)s)"
    )
    parser.add_argument("--opts", nargs="*", default=[], help="overrides of every config: key=value")
    return parser


def main() -> int:
    """Parse the arguments and act. Returns the exit status: 1 if an AP differs or an entry fails."""
    args = build_parser().parse_args()
    if args.action == "readme":
        for project in PROJECTS:
            path = Path(__file__).resolve().parent.parent / "projects" / project / "README.md"
            path.write_text(update_readme(project, path.read_text()))
        return 0
    entries = select_entries(args.pattern)
    if args.action == "list":
        for entry in entries:
            print(f"# {entry.source}: {entry.name}, {entry.backbone}: {entry.box_ap}\n{entry.command}")
        return 0
    outcomes = []
    for outcome in evaluate_entries(entries, record=args.record, checkpoints=args.checkpoints, overrides=args.opts):
        outcomes.append(outcome)
        print(outcome, flush=True)
    return 0 if all(outcome.agrees for outcome in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
