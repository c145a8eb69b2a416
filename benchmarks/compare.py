"""Ours beside transformers' two-stage Deformable DETR: the frame that ``inference.py`` and ``train_step.py`` fill."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # idle threads that spin would count as CPU time
sys.path.insert(0, str(Path(__file__).parent.parent))

import torch
from torch import nn

import detrex_ops
from benchmarks.common import environment, in_turns, peak_memory, write_results
from benchmarks.detectors import Case, build_hugging_face, build_ours, check_agreement, copy_weights, make_inputs

__all__ = ["CONTESTANTS", "Prepare", "main"]

CONTESTANTS = ("ours", "transformers")
CASES = ("1x480x640", "2x480x640", "1x800x1333", "2x800x1333")
PACKAGES = ("torch", "torchvision", "transformers", "timm", "numpy")

# (contestant, model, inputs of ours, inputs of transformers) -> one measured step
Prepare = Callable[[str, nn.Module, list[dict], dict], Callable[[], object]]


def main(name: str, title: str, prepare: Prepare, accelerate: Callable[[nn.Module, argparse.Namespace], None]) -> None:
    """Parse the command line, measure every case and write the results.

    Args:
        name: of the result files.
        title: of the table.
        prepare: makes a contestant's step.
        accelerate: applies the levers that were asked for to our model.
    """
    args = _parse(name)
    device = torch.device(args.device)
    if args.threads:
        torch.set_num_threads(args.threads)
    if args.memory_of:
        contestant, case = args.memory_of.split(":")
        print(f"{_memory(contestant, _case(case), device, args, prepare, accelerate):.1f}")
        return
    models = _build(device, args, accelerate)
    print(f"scores agree to {check_agreement(models['transformers'], models['ours']):.1e}")
    rows = []
    for text in args.cases:
        case = _case(text)
        steps = _steps(models, case, prepare)
        if args.profile:
            _profile(steps, text, device)
            continue
        timings = in_turns(steps, args.repeats, device)
        memory = {who: _memory_in_subprocess(who, text) if args.memory else float("nan") for who in CONTESTANTS}
        rows.append(_row(text, timings, memory))
        print({key: round(value, 3) if isinstance(value, float) else value for key, value in rows[-1].items()})
    if rows:
        env = environment(device, PACKAGES) | {"operator": detrex_ops.backend(device), "repeats": args.repeats}
        env["levers"] = ", ".join(args.levers) or "none"
        write_results(args.output, title, env, rows)


def _parse(name: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser(formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=0, help="0: torch's default")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--cases", nargs="+", default=list(CASES), metavar="BxHxW")
    parser.add_argument("--ops", choices=("auto", "reference"), default="auto", help="our operator's backend")
    parser.add_argument("--levers", nargs="*", default=[], help="of detrex.engine.accelerate, or 'all'")
    parser.add_argument("--bf16", action="store_true", help="autocast both models to bfloat16")
    parser.add_argument("--memory", action=argparse.BooleanOptionalAction, default=True, help="measure peak memory")
    parser.add_argument("--profile", action="store_true", help="print where the time goes instead")
    parser.add_argument("--output", default=name, help="name of the result files")
    parser.add_argument("--memory-of", default="", help=argparse.SUPPRESS)
    return parser.parse_args()


def _case(text: str) -> Case:
    batch, height, width = (int(part) for part in text.split("x"))
    return batch, height, width


def _build(
    device: torch.device, args: argparse.Namespace, accelerate: Callable[[nn.Module, argparse.Namespace], None]
) -> dict[str, nn.Module]:
    if args.ops == "reference":
        detrex_ops.force_backend("reference")
    torch.manual_seed(0)
    models = {"ours": build_ours(), "transformers": build_hugging_face()}
    copy_weights(models["transformers"], models["ours"])
    models = {name: model.to(device) for name, model in models.items()}
    accelerate(models["ours"], args)
    return models


def _steps(models: Mapping[str, nn.Module], case: Case, prepare: Prepare) -> dict[str, Callable[[], object]]:
    inputs, theirs = make_inputs(case, models["ours"])
    return {name: prepare(name, model, inputs, theirs) for name, model in models.items()}


def _row(case: str, timings: Mapping, memory: Mapping[str, float]) -> dict[str, object]:
    mine, theirs = (timings[name] for name in CONTESTANTS)
    return {
        "batch x height x width": case,
        "ours, CPU s": mine.cpu_s,
        "transformers, CPU s": theirs.cpu_s,
        "ratio": theirs.cpu_s / mine.cpu_s,
        "ours, wall s": mine.wall_s,
        "transformers, wall s": theirs.wall_s,
        "wall ratio": theirs.wall_s / mine.wall_s,
        "ours, peak MiB": memory["ours"],
        "transformers, peak MiB": memory["transformers"],
    }


def _memory_in_subprocess(contestant: str, case: str) -> float:
    command = [sys.executable, *sys.argv, "--memory-of", f"{contestant}:{case}"]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1])


def _memory(contestant: str, case: Case, device, args: argparse.Namespace, prepare: Prepare, accelerate) -> float:
    models = _build(device, args, accelerate)
    step = _steps({"ours": models["ours"], contestant: models[contestant]}, case, prepare)[contestant]
    for other in set(models) - {contestant}:
        models.pop(other)
    return peak_memory(step, device)


def _profile(steps: Mapping[str, Callable[[], object]], case: str, device: torch.device) -> None:
    activities = [torch.profiler.ProfilerActivity.CPU]
    if device.type == "cuda":
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    order = "self_cuda_time_total" if device.type == "cuda" else "self_cpu_time_total"
    for name, step in steps.items():
        step()
        with torch.profiler.profile(activities=activities) as profile:
            step()
        print(f"== {name}, {case}")
        print(profile.key_averages().table(sort_by=order, row_limit=20, max_name_column_width=50))
