"""The program ``detrex``: one command for each thing to do, imported when it is asked for."""

from __future__ import annotations

import difflib
import importlib
import sys
from collections.abc import Sequence

import detrex

__all__ = ["COMMANDS", "main"]

# name -> function of detrex.cli that takes the arguments, and a line for the help.
COMMANDS = {
    "demo": ("demo:main", "draw a data set, train a small detector on it, evaluate and show"),
    "doctor": ("doctor:main", "check the installation"),
    "check-data": ("check_data:main", "check a data set, and write a cleaned copy"),
    "train": ("train:main", "train a detector"),
    "evaluate": ("train:evaluate", "evaluate a detector"),
    "predict": ("predict:main", "detect objects on images and videos"),
    "report": ("report:main", "write an HTML page about a run"),
    "visualize": ("visualize:main", "draw training data, detections or training curves"),
    "export": ("export:main", "export a detector as ONNX and torch.export program"),
    "convert": ("convert:main", "rewrite a checkpoint in another layout"),
    "migrate": ("migrate:main", "rewrite a config file of the original detrex"),
    "zoo": ("zoo:main", "list or evaluate published checkpoints"),
    "analyze": ("analyze:main", "count parameters and FLOPs"),
    "benchmark": ("benchmark:main", "time training and inference"),
    "slurm": ("slurm:main", "submit a training to SLURM"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        argv: name of the command and its arguments; None takes the process's own.

    Returns:
        The exit status: that of the command, or 2 for an unknown one.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help", "help"):
        print(_help())
        return 0 if words else 2
    if words[0] == "--version":
        print(f"detrex {detrex.__version__}")
        return 0
    if words[0] not in COMMANDS:
        near = difflib.get_close_matches(words[0].replace("_", "-"), COMMANDS, n=1)
        hint = f"Did you mean {near[0]}?" if near else f"Commands: {', '.join(COMMANDS)}"
        print(f"error: detrex has no command {words[0]!r}. {hint}", file=sys.stderr)
        return 2
    module, _, function = COMMANDS[words[0]][0].partition(":")
    return getattr(importlib.import_module(f"detrex.cli.{module}"), function)(words[1:])


def _help() -> str:
    commands = "\n".join(f"  {name:<12}{line}" for name, (_, line) in COMMANDS.items())
    return (
        f"usage: detrex COMMAND [ARGUMENTS ...]\n       detrex --version\n\n{detrex.__doc__}\n\n"
        f"commands:\n{commands}\n\n"
        "detrex COMMAND --help shows a command's arguments and an example."
    )


if __name__ == "__main__":
    sys.exit(main())
