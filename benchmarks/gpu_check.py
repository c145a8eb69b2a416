"""Everything that waits for a GPU, as one command: correctness of each backend there, then the operator's benchmark.

    python benchmarks/gpu_check.py [--device cuda:0]

The extension has to be built on or for that machine first (pip install --no-build-isolation -e .). Prints differences
from the reference, checks that the deterministic backward repeats itself bit for bit, that streams and devices are
respected, that a resumed run has the losses of the whole one within 1 %, and writes
results/operator_cuda[_batches].{md,json,png}.
"""

from __future__ import annotations

import os
import sys

if __name__ == "__main__":  # without this folder, in which operator.py would hide the standard library's module
    sys.path.pop(0)
sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

import argparse
import itertools
import json
import shutil
import subprocess
import tempfile
from pathlib import Path

import torch

import detrex_ops
from detrex.data.datasets.shapes import ShapesParameters, make_demo_data
from detrex_ops.backends import available
from detrex_ops.kernels import REFERENCE, Arguments, Implementation
from detrex_ops.self_test import self_test

ROOT = Path(__file__).parent.parent
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-4, torch.bfloat16: 2e-2, torch.float16: 4e-3}
RESUME_TOLERANCE = 0.01  # relative; atomic additions are in another order each time
SHAPES = [25, 42, 13, 21, 7, 1, 1, 1]


def arguments_of(device: torch.device, dtype: torch.dtype, channels: int, reference_size: int) -> Arguments:
    """300 queries of 8 heads, samples on all sides of the levels."""
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    generator = torch.Generator().manual_seed(channels + reference_size)
    tokens = sum(height * width for height, width in zip(SHAPES[::2], SHAPES[1::2], strict=True))
    value = torch.randn(2, tokens, 8, channels, generator=generator, dtype=wide).to(dtype)
    weights = torch.randn(2, 300, 8, 4, 4, generator=generator, dtype=wide)
    samples = torch.randn(2, 300, 8, 4, 4, 2, generator=generator, dtype=wide)
    points = torch.rand(2, 300, 4, reference_size, generator=generator, dtype=wide) if reference_size else None
    if points is None:
        samples = samples * 0.4 + 0.5
    on_device = [None if tensor is None else tensor.to(device) for tensor in (value, points, samples, weights)]
    return Arguments.of(on_device[0], SHAPES, *on_device[1:])


def compare(implementation: Implementation, device: torch.device) -> bool:
    """The grid of types, channels and forms; True where all agree."""
    good = True
    for dtype, channels, size in itertools.product(TOLERANCE, (16, 32, 64, 24), (0, 2, 4)):
        arguments = arguments_of(device, dtype, channels, size)
        grad = torch.randn_like(arguments.new_output())
        actual = [implementation.forward(arguments), *implementation.backward(grad, arguments, size != 0)]
        expected = [REFERENCE.forward(arguments), *REFERENCE.backward(grad, arguments, size != 0)]
        worst = max(
            ((a.double() - b.double()).abs().max() / b.double().abs().max()).item()
            for a, b in zip(actual, expected, strict=True)
            if b is not None
        )
        agrees = worst <= TOLERANCE[dtype]
        good &= agrees
        print(f"{implementation.name} {dtype} D={channels} reference={size}: {worst:.1e} {'' if agrees else 'WRONG'}")
    return good


def repeats_itself(implementation: Implementation, device: torch.device) -> bool:
    """The deterministic backward, twice."""
    arguments = arguments_of(device, torch.float32, 32, 0)
    grad = torch.randn_like(arguments.new_output())
    torch.use_deterministic_algorithms(True)
    runs = [implementation.backward(grad, arguments, False)[0] for _ in range(3)]
    torch.use_deterministic_algorithms(False)
    same = all(torch.equal(run, runs[0]) for run in runs)
    print(f"{implementation.name} deterministic backward: {'same bits' if same else 'DIFFERS'}")
    return same


def respects_streams(implementation: Implementation, device: torch.device) -> bool:
    """A result on a side stream behind a long wait is the result of what was queued there before it."""
    arguments = arguments_of(device, torch.float32, 32, 0)
    expected = implementation.forward(arguments)
    stream = torch.cuda.Stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        late = torch.zeros_like(arguments.value)
        torch.cuda._sleep(100_000_000)
        late.copy_(arguments.value)
        actual = implementation.forward(Arguments.of(late, SHAPES, None, arguments.samples, arguments.weights))
    torch.cuda.synchronize(device)
    good = torch.equal(actual, expected)
    print(f"{implementation.name} on a side stream: {'right' if good else 'WRONG'}")
    return good


def resumes(device: torch.device) -> bool:
    """Twelve steps of the demo after its checkpoint, as they were and resumed: losses within RESUME_TOLERANCE."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        make_demo_data(folder / "data", ShapesParameters(num_train=60, num_val=20))
        settings = [
            f"train.device={device}",
            f"dataloader.data.root={folder / 'data'}",
            "train.seed=0",
            "train.max_iter=24",
            "train.warmup=4",
            "train.eval_period=24",
            "train.checkpointer.period=12",
            "train.log_period=1",
            "train.report=False",
        ]
        whole = _losses(folder / "whole", settings)
        (folder / "resumed").mkdir()
        shutil.copy(folder / "whole/model_0000011.pth", folder / "resumed")
        (folder / "resumed/last_checkpoint").write_text("model_0000011.pth")
        resumed = _losses(folder / "resumed", ["--resume", *settings])
    worst = max(abs(resumed[i] / whole[i] - 1) for i in range(12, 24))
    print(f"resumed on {device}: losses within {worst:.1e} {'' if worst <= RESUME_TOLERANCE else 'WRONG'}")
    return worst <= RESUME_TOLERANCE


def _losses(output: Path, arguments: list[str]) -> dict[int, float]:
    config = ROOT / "projects/deformable_detr/configs/demo_shapes.py"
    command = [sys.executable, str(ROOT / "tools/train_net.py"), "--config-file", str(config), *arguments]
    subprocess.run([*command, f"train.output_dir={output}"], check=True, stdout=subprocess.DEVNULL)
    rows = [json.loads(line) for line in (output / "metrics.json").read_text().splitlines()]
    return {row["iteration"]: row["total_loss"] for row in rows if "total_loss" in row}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda:0", type=torch.device)
    device = parser.parse_args().device
    print(f"{torch.cuda.get_device_name(device)}, torch {torch.__version__}: {detrex_ops.backend(device)}")
    print(detrex_ops.build_report())
    good = True
    for implementation in available(device.type)[:-1]:
        self_test(implementation, device)
        good &= compare(implementation, device) and respects_streams(implementation, device)
        if implementation.name == "cuda":
            good &= repeats_itself(implementation, device)
    good &= resumes(device)
    command = [sys.executable, str(ROOT / "benchmarks/operator.py"), "--device", str(device), "--repeats", "30"]
    subprocess.run([*command, "--limits"], check=True)
    subprocess.run([*command, "--batch", "1", "2", "4", "8"], check=True)
    if not good:
        raise SystemExit("differences: see above")


if __name__ == "__main__":
    main()
