"""The CUDA kernels' own source, run on a CPU through an emulation of CUDA's threads, against the reference.

This shows the arithmetic, the indexing and the barriers. Launches, memory spaces and speed need a GPU:
benchmarks/gpu_check.py.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from detrex_ops.build_extensions import find_torch, torch_flags
from detrex_ops.kernels import REFERENCE, Arguments, fixed_point_scale

from .conftest import make_case

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def emulated(tmp_path_factory):
    """The operators, compiled once."""
    found, compiler = find_torch(), shutil.which("g++")
    if compiler is None or found is None or not found.stable:
        pytest.skip("needs g++ and a torch with the stable ABI")
    library = tmp_path_factory.mktemp("emulated") / "emulated.so"
    command = [compiler, "-O1", "-std=c++17", "-fPIC", "-shared", "-w", *torch_flags(found)]
    command += [f"-I{ROOT / 'detrex_ops/csrc'}", str(ROOT / "tests/ops/cuda_emulation.cpp"), "-o", str(library)]
    command += [f"-L{found.root / 'lib'}", "-ltorch_cpu", "-lc10"]
    subprocess.run(command, check=True)
    torch.ops.load_library(str(library))
    return torch.ops.detrex_ops_emulated


def run(operators, case, *, deterministic: bool = False):
    """Forward and backward as detrex_ops.kernels calls them on a GPU."""
    a = Arguments.of(case.value, case.flat_shapes, case.reference_points, case.samples, case.weights)
    inputs = (a.value, a.shapes, a.reference_points, a.samples, a.weights)
    output = a.new_output()
    operators.forward(*inputs, output, 0)
    scale = fixed_point_scale(case.grad_output, a) if deterministic else None
    sums = torch.zeros_like(a.value, dtype=torch.int64 if deterministic else a.samples.dtype)
    points = None if a.reference_points is None else a.new_grad_reference().zero_()
    samples, weights = torch.empty_like(a.samples), torch.empty_like(a.weights)
    operators.backward(case.grad_output, *inputs, sums, points, samples, weights, scale, 0)
    value = sums.double() / scale.double() if deterministic else sums
    expected = [REFERENCE.forward(a), *REFERENCE.backward(case.grad_output, a, points is not None)]
    return [output, value, None if points is None else points.sum(2), samples, weights], expected


def assert_close(actual, expected, tolerance: float) -> None:
    for ours, theirs in zip(actual, expected, strict=True):
        if theirs is not None:
            scale = theirs.double().abs().max()
            torch.testing.assert_close(ours.double() / scale, theirs.double() / scale, rtol=0, atol=tolerance)


@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize("reference_size", [0, 2, 4])
@pytest.mark.parametrize(
    ("dtype", "channels"),
    [(torch.float32, 32), (torch.bfloat16, 16), (torch.bfloat16, 32), (torch.float64, 32), (torch.float64, 6)],
)
def test_like_reference(emulated, dtype, channels, reference_size, deterministic):
    case = make_case(
        levels="five", queries=35, channels=channels, dtype=dtype, reference_size=reference_size, heads=3, points=4
    )
    tolerance = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 1e-2}[dtype]
    assert_close(*run(emulated, case, deterministic=deterministic), tolerance)


def test_channels_beyond_a_warp(emulated):
    assert_close(*run(emulated, make_case(queries=9, channels=70, dtype=torch.float64)), 1e-12)


def test_far_and_non_finite_positions(emulated):
    case = make_case(queries=5)
    case.samples[0, 0, 0, 0, 0, 0] = 1e30
    case.samples[1, 0, 0, 0, 0, 0] = float("nan")
    case.samples[1, 1, 1, 1, 0, 1] = float("inf")
    actual, expected = run(emulated, case)
    assert expected[0][1, 0].isnan().any()
    torch.testing.assert_close(actual[0], expected[0], equal_nan=True)
    torch.testing.assert_close(actual[1], expected[1], rtol=1e-4, atol=1e-4)
