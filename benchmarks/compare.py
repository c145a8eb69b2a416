"""Ours beside transformers' two-stage Deformable DETR: the frame that ``inference.py`` and ``train_step.py`` fill."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Mapping, Sequence
from functools import partial

import torch

from benchmarks.common import Timing, environment, in_turns, write_results
from benchmarks.contestant import Contestant, Optimize, Prepare, Setup
from benchmarks.detectors import Case, save_random_weights

__all__ = ["main"]

NAMES = ("ours", "transformers")
CASES = ("1x480x640", "2x480x640", "1x800x1333", "2x800x1333")  # ascending: peak memory assumes it
PACKAGES = ("torch", "torchvision", "transformers", "timm", "numpy")
TOLERANCE = 1e-3  # of the scores, as logits


def main(name: str, title: str, prepare: Prepare, optimize: Optimize) -> None:
    """Parse the command line, measure every case and write the results.

    The two run in processes of their own, in turns, so that neither profits from memory that the other has mapped.
    Cases whose memory both cannot have together start a process for each turn.

    Args:
        name: of the result files.
        title: of the table.
        prepare: makes a contestant's step.
        optimize: applies optimizations of our model.
    """
    args = _parse(name)
    env = environment(torch.device(args.device), PACKAGES)  # now: the commit may be another one when the run ends
    with tempfile.TemporaryDirectory() as folder:
        save_random_weights(folder)
        setup = Setup(
            device=args.device,
            threads=args.threads,
            weights=folder,
            bf16=args.bf16,
            ops=args.ops,
            optimizations=None
            if args.optimizations == ["all"]
            else ()
            if args.optimizations == ["none"]
            else tuple(args.optimizations),
            keep_freed_memory=args.keep_freed_memory,
            prepare=prepare,
            optimize=optimize,
        )
        contestants = {name: Contestant(name, setup) for name in NAMES}
        difference = _difference(contestants)
        env |= contestants["ours"].ask("environment")
        if args.profile:
            _profile(contestants, args.cases)
            return
        rows = _measure(contestants, setup, args)
    env |= {
        "repeats": args.repeats,
        "precision": "bfloat16 autocast" if args.bf16 else "float32",
        "optimizations": ", ".join(args.optimizations),
        "one process at a time": ", ".join(args.alone) or None,
        "ours keeps freed memory": args.keep_freed_memory,
        "largest difference of the scores": difference,
    }
    write_results(args.output, title, env, rows)


def _profile(contestants: Mapping[str, Contestant], cases: Sequence[str]) -> None:
    for text in cases:
        for name, one in contestants.items():
            one.ask("case", _case(text))
            print(f"== {name}, {text}\n{one.ask('profile')}")


def _measure(contestants: Mapping[str, Contestant], setup: Setup, args: argparse.Namespace) -> list[dict[str, object]]:
    """A row for each case; those that have the memory to themselves come last."""
    rows = []
    for text in sorted(args.cases, key=args.alone.__contains__):
        if text in args.alone:
            for one in contestants.values():
                one.stop()
            timings, memory = _alone(setup, text, args.repeats)
        else:
            memory = {name: one.ask("case", _case(text)) for name, one in contestants.items()}
            timings = in_turns({name: partial(one.ask, "measure") for name, one in contestants.items()}, args.repeats)
        rows.append(_row(text, timings, memory))
        print({key: round(value, 3) if isinstance(value, float) else value for key, value in rows[-1].items()})
    return rows


def _parse(name: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser(formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=0, help="0: torch's default")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--cases", nargs="+", default=list(CASES), metavar="BxHxW")
    parser.add_argument(
        "--alone", nargs="*", default=[], metavar="BxHxW", help="out of --cases: for these, one process at a time"
    )
    parser.add_argument("--ops", choices=("auto", "reference"), default="auto", help="our operator's backend")
    parser.add_argument(
        "--optimizations", nargs="+", default=["all"], help="of detrex.inference.optimizations, or all or none"
    )
    parser.add_argument(
        "--keep-freed-memory", action=argparse.BooleanOptionalAction, default=True, help="have our process keep it"
    )
    parser.add_argument("--bf16", action="store_true", help="autocast both models to bfloat16")
    parser.add_argument("--profile", action="store_true", help="print where the time goes instead")
    parser.add_argument("--output", default=name, help="name of the result files")
    return parser.parse_args()


def _case(text: str) -> Case:
    batch, height, width = (int(part) for part in text.split("x"))
    return batch, height, width


def _alone(setup: Setup, text: str, repeats: int) -> tuple[dict[str, Timing], dict[str, float]]:
    """Timings and peak memory of a case for which both contestants together would need too much memory."""
    memory: dict[str, float] = {}

    def turn(name: str) -> tuple[float, float]:
        one = Contestant(name, setup)
        memory[name] = one.ask("case", _case(text))
        sample = one.ask("measure")
        one.stop()
        return sample

    return in_turns({name: partial(turn, name) for name in NAMES}, repeats, warmup=0), memory


def _difference(contestants: Mapping[str, Contestant]) -> float:
    """Largest difference of the scores of the encoder's tokens.

    Raises:
        RuntimeError: if it is too large for times to be comparable.
    """
    mine, theirs = (contestants[name].ask("scores") for name in NAMES)
    difference = float((mine - theirs).abs().max())
    if not difference <= TOLERANCE:
        raise RuntimeError(f"the two models differ by {difference:.1e} in the encoder's scores")
    return difference


def _row(case: str, timings: Mapping[str, Timing], memory: Mapping[str, float]) -> dict[str, object]:
    mine, theirs = (timings[name] for name in NAMES)
    return {
        "batch x height x width": case,
        "ours, CPU s": mine.cpu_s,
        "transformers, CPU s": theirs.cpu_s,
        "ratio": theirs.cpu_s / mine.cpu_s,
        "ours, wall s": mine.wall_s,
        "transformers, wall s": theirs.wall_s,
        "wall ratio": theirs.wall_s / mine.wall_s,
        "ours, peak MiB": round(memory["ours"]),
        "transformers, peak MiB": round(memory["transformers"]),
    }
