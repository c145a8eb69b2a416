"""The operator: every backend of this device and installed peers, beside grid_sample, in one interleaved run.

    python benchmarks/operator.py [--device cuda] [--sizes encoder ...] [--limits]
    python benchmarks/operator.py --batch 1 2 4 8

Sizes are those of the models with ResNet-50 and Swin-L at 800x1333. Ours is the public function, checks and dispatch
included. Ratios are to grid_sample as the official code calls it: that of transformers where installed, else our
reference. Several batches are measured without variants (precisions, instruction sets, the fused form). "From
projections" starts at offsets and logits: fused does the softmax and the locations in the kernel, unfused before.

Writes results/operator_<device>[_batches][_fresh_memory].{md,json,png}. On Linux the C allocator keeps what is freed,
for all contestants alike; --fresh-memory leaves it as it is for users, who pay page faults for large new tensors.
"""

from __future__ import annotations

import os
import sys

if __name__ == "__main__":  # without this folder, in which operator.py would hide the standard library's module
    sys.path.pop(0)
sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

import argparse
import ctypes
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import torch
from torch import Tensor

import detrex_ops
from benchmarks.common import RESULTS, PeakMemory, available_memory, clock, environment, in_turns, write_results
from benchmarks.operator_limits import limit_rows, measured_limits
from benchmarks.operator_peers import Entry, check, peers
from benchmarks.operator_plot import plot
from benchmarks.operator_problem import SHAPES, SIZES, Problem, make_problem, work_of
from detrex_ops import ms_deform_attn, ms_deform_attn_fused, ms_deform_attn_reference
from detrex_ops.backends import VARIABLE, available
from detrex_ops.reference import sampling_locations

TITLE = "Multi-scale deformable attention, 8 heads x 32 channels, 4 levels x 4 points"
DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}
# Short calls are repeated for so long: the clock's resolution is not that of a decoder layer, and the first call of a
# turn finds the caches as the contestant before left them.
TURN_S, MOST_CALLS = 0.04, 200
FORWARD, BOTH = "forward", "forward + backward"
Row = dict[str, object]


def passes_of(entry: Entry, grad_output: Tensor) -> dict[str, Callable[[], object]]:
    """What is measured of an entry."""

    @torch.no_grad()
    def forward() -> None:
        entry.call(*entry.inputs)

    def both() -> None:
        inputs = [tensor.detach().requires_grad_() for tensor in entry.inputs]
        output = entry.call(*inputs)
        torch.autograd.grad(output, inputs, grad_output.to(output.dtype))

    return {FORWARD: forward, BOTH: both}


def contestants(problem: Problem, *, variants: bool) -> Iterator[tuple[str, Entry]]:
    """Name and entry; the baseline comes first. Without ``variants``: that, our backends and, on GPUs, the peers."""
    device = problem.value.device
    if device.type == "cuda" or _baseline_fits(problem):
        found = peers(problem)
        yield from (one for one in found if variants or device.type == "cuda" or one[0].startswith("grid_sample"))
    tensors = (problem.value, problem.locations, problem.weights)
    if variants:
        yield "grid_sample (reference)", Entry(tensors, lambda v, *rest: ms_deform_attn_reference(v, SHAPES, *rest))
    for backend in (implementation.name for implementation in available(device.type)[:-1]):
        yield backend, _ours(tensors, backend)
        yield f"{backend} bfloat16", _ours((problem.value.bfloat16(), *tensors[1:]), backend)
        if variants:
            yield f"{backend} float16", _ours((problem.value.half(), *tensors[1:]), backend)
            for name in _instruction_sets()[1:] if backend == "cpu" else ():
                yield f"cpu, {name}", _ours(tensors, backend, name)
            yield from _from_projections(problem, backend)


def _ours(tensors: tuple[Tensor, ...], backend: str, instruction_set: str = "") -> Entry:
    return Entry(tensors, lambda v, *rest: ms_deform_attn(v, SHAPES, *rest), _forced(backend, instruction_set))


def _from_projections(problem: Problem, backend: str) -> Iterator[tuple[str, Entry]]:
    tensors, points = (problem.value, problem.offsets, problem.logits), problem.reference_points

    def unfused(value: Tensor, offsets: Tensor, logits: Tensor) -> Tensor:
        locations = sampling_locations(points, offsets, SHAPES)
        return ms_deform_attn(value, SHAPES, locations, logits.flatten(3).softmax(-1).view_as(logits))

    def fused(value: Tensor, offsets: Tensor, logits: Tensor) -> Tensor:
        return ms_deform_attn_fused(value, SHAPES, points, offsets, logits)

    yield f"{backend}, from projections, unfused", Entry(tensors, unfused, _forced(backend))
    yield f"{backend}, from projections, fused", Entry(tensors, fused, _forced(backend))


def _forced(backend: str, instruction_set: str = "") -> Callable[[], AbstractContextManager[None]]:
    @contextmanager
    def around() -> Iterator[None]:
        before = os.environ.get(VARIABLE, "")
        os.environ[VARIABLE] = backend
        if instruction_set:
            torch.ops.detrex_ops_cpu.use_instruction_set(instruction_set)
        yield
        os.environ[VARIABLE] = before
        if instruction_set:
            torch.ops.detrex_ops_cpu.use_instruction_set("")

    return around


def _instruction_sets() -> list[str]:
    """Those that this processor has, the best first."""
    names = ["avx512", "avx2", "plain"]
    return names[names.index(torch.ops.detrex_ops_cpu.instruction_set()) :]


def _baseline_fits(problem: Problem) -> bool:
    """Whether grid_sample's backward finds the memory that it needs: about four times its samples."""
    needed = 4 * problem.weights.numel() * problem.value.shape[-1] * 4 / 2**30
    free = available_memory() / 2**30
    if needed > free:
        print(
            f"batch {len(problem.value)}: no grid_sample, which needs {needed:.0f} GiB of the {free:.0f} that are free"
        )
    return needed <= free


def measure(size: str, batch: int, device: torch.device, *, repeats: int, variants: bool) -> Iterator[Row]:
    """Rows of the table for one size: time, ratio and memory of each contestant and pass."""
    problem = make_problem(SIZES[size], batch, device)
    found = dict(contestants(problem, variants=variants))
    for name, entry in found.items():
        if "grid_sample" not in name:
            check(name, entry, problem)
    for name in (FORWARD, BOTH):
        memory, runs = {}, {}
        for key, entry in found.items():
            run = passes_of(entry, problem.grad_output)[name]
            with entry.around():
                memory[key] = peak_memory(run, device)  # a warm-up as well
                calls = round(TURN_S / max(clock(run, device)[1], TURN_S / MOST_CALLS))
            runs[key] = repeated(run, entry.around, device, max(1, calls))
        timings = in_turns(runs, repeats if size != "encoder" else max(2, repeats // batch), warmup=0)
        seconds = {key: timing.wall_s if device.type == "cuda" else timing.cpu_s for key, timing in timings.items()}
        baseline = next((seconds[key] for key in seconds if "grid_sample" in key), None)
        for key in runs:
            yield {
                "size": size,
                "batch": batch,
                "pass": name,
                "contestant": key,
                "ms": seconds[key] * 1e3,
                "times grid_sample": baseline / seconds[key] if baseline else None,
                "peak MiB": memory[key],
            }


def repeated(
    run: Callable[[], object], around: Callable[[], AbstractContextManager[None]], device: torch.device, calls: int
) -> Callable[[], tuple[float, float]]:
    """CPU seconds and seconds of one of several calls."""

    def timed() -> tuple[float, float]:
        with around():
            cpu, wall = clock(lambda: [run() for _ in range(calls)], device)
        return cpu / calls, wall / calls

    return timed


def peak_memory(run: Callable[[], object], device: torch.device) -> float:
    """MiB beyond the inputs, after what the allocator keeps from before has been given back."""
    PeakMemory(device).of(lambda: None)
    return PeakMemory(device).of(run)


def keep_freed_memory() -> bool:
    """No mmap for large blocks and no trimming of the heap; whether this took effect, as it does with glibc."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    mmap_max, trim_threshold = -4, -1
    return bool(mallopt(mmap_max, 0) and mallopt(trim_threshold, 2**31 - 1))


def distances(rows: list[Row], device: torch.device) -> tuple[dict[str, str], list[Row]]:
    """The machine's limits, and for each size at batch 1 how far our fastest float32 backend is from them."""
    limits, ours = measured_limits(device), available(device.type)[0].name
    sizes = dict.fromkeys(row["size"] for row in rows)
    works = {(size, name): work for size in sizes
             for name, work in work_of(make_problem(SIZES[size], 1, device)).items()}  # fmt: skip
    chosen = {(row["size"], row["pass"]): row["ms"] for row in rows if row["batch"] == 1 and row["contestant"] == ours}
    return limits.described(), limit_rows(limits, works, chosen)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", type=torch.device)
    parser.add_argument("--threads", default=1, type=int, help="CPU threads; ratios of CPU seconds need one")
    parser.add_argument("--repeats", default=7, type=int, help="fewer for the encoder in large batches")
    parser.add_argument("--batch", default=[1], type=int, nargs="+", help="several: without variants")
    parser.add_argument("--sizes", default=list(SIZES), choices=list(SIZES), nargs="+")
    parser.add_argument("--limits", action="store_true", help="measure the machine's limits and the distance to them")
    parser.add_argument("--fresh-memory", action="store_true", help="leave the C allocator as it is")
    arguments = parser.parse_args()
    device = arguments.device
    env = environment(device, ("torch", "transformers"))
    env |= {
        "memory": "fresh" if arguments.fresh_memory or not keep_freed_memory() else "kept by the allocator",
        "threads": arguments.threads,
        "repeats": arguments.repeats,
    }
    torch.set_num_threads(arguments.threads)
    if device.type == "cpu" and detrex_ops.backend(device) == "cpu":
        env["instruction set"] = torch.ops.detrex_ops_cpu.instruction_set()
    rows: list[Row] = []
    for batch in arguments.batch:
        for size in arguments.sizes:
            rows += measure(size, batch, device, repeats=arguments.repeats, variants=arguments.batch == [1])
            print(f"{size} x{batch}: done", flush=True)
    more = {}
    if arguments.limits:
        limits, more["Distance to the limits"] = distances(rows, device)
        env |= limits
    name = f"operator_{device.type}" + ("" if arguments.batch == [1] else "_batches")
    name += "_fresh_memory" if arguments.fresh_memory else ""
    write_results(name, TITLE, env, rows, more)
    plot(rows, RESULTS / f"{name}.png")


if __name__ == "__main__":
    main()
