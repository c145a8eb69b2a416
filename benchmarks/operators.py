"""The operator: every backend of this device and installed peers, beside grid_sample, in one interleaved run.

    python benchmarks/operators.py [--device cuda] [--threads 1] [--repeats 7] [--sizes encoder ...] [--limits]

Sizes are those of models at 800x1333; positions are reference points plus offsets of a few cells, as in trained models.
Writes results/operator_<device>.{md,json,png}. Ratios are to grid_sample as the official code calls it: that of
transformers where installed, else detrex_ops' reference. On Linux the C allocator keeps what is freed, for all
contestants alike; --fresh-memory leaves it alone, which adds the page faults of new tensors to all of them.

(A file named operator.py would hide the standard library's module of that name from every script in this folder.)
"""

from __future__ import annotations

import argparse
import ctypes
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import torch
from torch import Tensor

from benchmarks.common import RESULTS, PeakMemory, clock, environment, in_turns, write_results
from benchmarks.operator_limits import measured_limits
from benchmarks.operator_peers import peers
from detrex_ops import ms_deform_attn_reference
from detrex_ops.backends import available
from detrex_ops.kernels import Arguments, Implementation
from detrex_ops.reference import sampling_locations

SHAPES = [(100, 167), (50, 84), (25, 42), (13, 21)]
QUERIES = {"encoder": None, "decoder-300": 300, "decoder-1800": 1800}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Problem:
    """One size: tensors on the device, float32."""

    value: Tensor
    locations: Tensor
    weights: Tensor
    grad_output: Tensor

    def in_dtype(self, dtype: torch.dtype) -> Problem:
        return Problem(self.value.to(dtype), self.locations, self.weights, self.grad_output.to(dtype))


def make_problem(queries: int | None, batch: int, device: torch.device) -> Problem:
    """``queries`` None: those of an encoder, one for each cell."""
    generator = torch.Generator().manual_seed(0)
    tokens = sum(height * width for height, width in SHAPES)
    if queries is None:
        centres = [
            torch.stack(
                torch.meshgrid((torch.arange(w) + 0.5) / w, (torch.arange(h) + 0.5) / h, indexing="xy"), -1
            ).flatten(0, 1)
            for h, w in SHAPES
        ]
        points = torch.cat(centres).expand(batch, -1, -1)
    else:
        points = torch.rand(batch, queries, 2, generator=generator)
    count = points.shape[1]
    offsets = torch.randn(batch, count, 8, 4, 4, 2, generator=generator) * 2.5
    locations = sampling_locations(points[:, :, None].expand(-1, -1, 4, -1), offsets, SHAPES)
    weights = torch.randn(batch, count, 8, 16, generator=generator).softmax(-1).unflatten(-1, (4, 4))
    value = torch.randn(batch, tokens, 8, 32, generator=generator)
    grad_output = torch.randn(batch, count, 256, generator=generator)
    return Problem(*(tensor.contiguous().to(device) for tensor in (value, locations, weights, grad_output)))


def of_function(function: Callable[..., Tensor], problem: Problem) -> dict[str, Callable[[], object]]:
    """Passes of something differentiable."""

    @torch.no_grad()
    def forward() -> None:
        function(problem.value, SHAPES, problem.locations, problem.weights)

    def both() -> None:
        inputs = [t.detach().requires_grad_() for t in (problem.value, problem.locations, problem.weights)]
        output = function(inputs[0], SHAPES, *inputs[1:])
        torch.autograd.grad(output, inputs, problem.grad_output)

    return {"forward": forward, "forward + backward": both}


def of_backend(implementation: Implementation, problem: Problem) -> dict[str, Callable[[], object]]:
    """Passes of one of our backends, past the choice between them."""
    flat = [size for shape in SHAPES for size in shape]

    def forward() -> Arguments:
        arguments = Arguments.of(problem.value, flat, None, problem.locations, problem.weights)
        implementation.forward(arguments)
        return arguments

    return {
        "forward": forward,
        "forward + backward": lambda: implementation.backward(problem.grad_output, forward(), False),
    }


def contestants(problem: Problem, device: torch.device) -> dict[str, dict[str, Callable[[], object]]]:
    """Name -> pass -> callable; the baseline comes first."""
    found = {name: of_function(function, problem) for name, function in peers(device).items()}
    found["grid_sample (detrex_ops reference)"] = of_function(ms_deform_attn_reference, problem)
    for implementation in available(device.type)[:-1]:
        found[f"detrex_ops {implementation.name}"] = of_backend(implementation, problem)
        for name, dtype in list(DTYPES.items())[1:]:
            key = f"detrex_ops {implementation.name} {name}"
            found[key] = of_backend(implementation, problem.in_dtype(dtype))
    return found


def repeated(run: Callable[[], object], device: torch.device, calls: int) -> Callable[[], tuple[float, float]]:
    """Seconds of one call, from several: the clock's resolution is not that of a decoder layer."""

    def measure() -> tuple[float, float]:
        cpu, wall = clock(lambda: [run() for _ in range(calls)], device)
        return cpu / calls, wall / calls

    return measure


def measure(size: str, batch: int, device: torch.device, repeats: int) -> list[dict[str, object]]:
    """Rows of the table for one size: time, ratio and memory of each contestant and pass."""
    found = contestants(make_problem(QUERIES[size], batch, device), device)
    rows = []
    for name in ("forward", "forward + backward"):
        runs = {key: passes[name] for key, passes in found.items()}
        calls = {key: 1 if key.startswith("grid_sample") else 2 if size == "encoder" else 20 for key in runs}
        timings = in_turns({key: repeated(run, device, calls[key]) for key, run in runs.items()}, repeats)
        seconds = {key: timing.wall_s if device.type == "cuda" else timing.cpu_s for key, timing in timings.items()}
        for key, run in runs.items():
            rows.append(
                {
                    "size": size,
                    "batch": batch,
                    "pass": name,
                    "contestant": key,
                    "ms": seconds[key] * 1e3,
                    "times grid_sample": next(iter(seconds.values())) / seconds[key],
                    "peak MiB": peak_memory(run, device),
                }
            )
    return rows


def peak_memory(run: Callable[[], object], device: torch.device) -> float:
    """MiB beyond the inputs, after what the allocator keeps from before has been given back."""
    PeakMemory(device).of(lambda: None)
    return PeakMemory(device).of(run)


def keep_freed_memory() -> None:
    """glibc: no trimming, and heap instead of mmap up to its limit of 32 MiB."""
    if sys.platform == "linux":
        trim_threshold, mmap_threshold = -1, -3
        libc = ctypes.CDLL(None)
        libc.mallopt(trim_threshold, 2**31 - 1)
        libc.mallopt(mmap_threshold, 2**25)


def plot(rows: list[dict[str, object]], path: Path) -> None:
    """Ratios to grid_sample, a panel for each pass."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    passes = list(dict.fromkeys(row["pass"] for row in rows))
    figure, axes = pyplot.subplots(1, len(passes), figsize=(6 * len(passes), 5), sharey=True, layout="constrained")
    for axis, name in zip(axes, passes, strict=True):
        chosen = [row for row in rows if row["pass"] == name]
        labels = [f"{row['contestant']}, {row['size']} x{row['batch']}" for row in chosen]
        bars = axis.barh(labels, [row["times grid_sample"] for row in chosen])
        axis.bar_label(bars, fmt="%.1f")
        axis.set(title=name, xlabel="times as fast as grid_sample", xscale="log")
        axis.invert_yaxis()
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", type=torch.device)
    parser.add_argument("--threads", default=1, type=int, help="CPU threads; ratios of CPU seconds need one")
    parser.add_argument("--repeats", default=7, type=int)
    parser.add_argument("--batch", default=[1], type=int, nargs="+")
    parser.add_argument("--sizes", default=list(QUERIES), choices=list(QUERIES), nargs="+")
    parser.add_argument("--limits", action="store_true", help="measure the machine's bandwidths and arithmetic as well")
    parser.add_argument("--fresh-memory", action="store_true", help="leave the C allocator as it is")
    arguments = parser.parse_args()
    if not arguments.fresh_memory:
        keep_freed_memory()
    torch.set_num_threads(arguments.threads)
    device = arguments.device
    rows = [
        row
        for size in arguments.sizes
        for batch in arguments.batch
        for row in measure(size, batch, device, arguments.repeats)
    ]
    env = environment(device, ("torch", "transformers"))
    env |= {
        "memory": "fresh" if arguments.fresh_memory else "kept by the allocator",
        "threads": arguments.threads,
        "repeats": arguments.repeats,
    }
    if device.type == "cpu":
        env["instruction set"] = torch.ops.detrex_ops_cpu.instruction_set()
    if arguments.limits:
        env |= measured_limits(device)
    name = f"operator_{device.type}"
    write_results(name, "Multi-scale deformable attention, 8 heads x 32 channels, 4 levels x 4 points", env, rows)
    plot(rows, RESULTS / f"{name}.png")


if __name__ == "__main__":
    main()
