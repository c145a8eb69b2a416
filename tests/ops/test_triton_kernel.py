"""The Triton kernels through Triton's interpreter, on a CPU, against the reference."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from .conftest import make_case

pytest.importorskip("triton")
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
NAMES = ("output", "grad value", "grad reference points", "grad samples", "grad weights")


@pytest.mark.skipif(INTERPRETED, reason="this is the interpreter's process")
def test_in_the_interpreter():
    """Triton chooses interpreter or compiler where kernels are defined: the tests below need a process of their own."""
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[2],
    )
    assert result.returncode == 0, result.stdout[-4000:]
    assert "passed" in result.stdout


@pytest.mark.skipif(not INTERPRETED, reason="runs inside test_in_the_interpreter")
@pytest.mark.parametrize("reference_size", [0, 2, 4])
@pytest.mark.parametrize(("dtype", "channels"), [(torch.float32, 16), (torch.float64, 6), (torch.bfloat16, 32)])
def test_like_reference(dtype, channels, reference_size):
    from detrex_ops.kernels import REFERENCE, Arguments
    from detrex_ops.triton_kernels import TRITON

    case = make_case(
        levels="odd", queries=35, channels=channels, points=2, dtype=dtype, reference_size=reference_size, batch=1
    )
    arguments = Arguments.of(case.value, case.flat_shapes, case.reference_points, case.samples, case.weights)
    fused = reference_size != 0
    actual = [TRITON.forward(arguments), *TRITON.backward(case.grad_output, arguments, fused)]
    expected = [REFERENCE.forward(arguments), *REFERENCE.backward(case.grad_output, arguments, fused)]
    tolerance = {torch.float64: 1e-10, torch.float32: 1e-5, torch.bfloat16: 1e-2}[dtype]
    for name, ours, theirs in zip(NAMES, actual, expected, strict=True):
        if theirs is not None:
            scale = theirs.double().abs().max()
            difference = ((ours.double() - theirs.double()).abs().max() / scale).item()
            assert difference <= tolerance, f"{name}: {difference}"


@pytest.mark.skipif(not INTERPRETED, reason="runs inside test_in_the_interpreter")
def test_non_finite_positions_and_no_queries():
    from detrex_ops.kernels import REFERENCE, Arguments
    from detrex_ops.triton_kernels import TRITON

    case = make_case(levels="odd", queries=3, channels=16, points=1)
    case.samples[0, 0, 0, 0, 0, 0] = float("nan")
    case.samples[0, 1, 0, 0, 0, 0] = 1e30
    arguments = Arguments.of(case.value, case.flat_shapes, None, case.samples, case.weights)
    torch.testing.assert_close(TRITON.forward(arguments), REFERENCE.forward(arguments), equal_nan=True)
    empty = make_case(queries=0)
    arguments = Arguments.of(empty.value, empty.flat_shapes, None, empty.samples, empty.weights)
    assert TRITON.forward(arguments).shape == (2, 0, 64)


@pytest.mark.skipif(not INTERPRETED, reason="runs inside test_in_the_interpreter")
def test_too_many_levels():
    from detrex_ops.kernels import Arguments
    from detrex_ops.triton_kernels import TRITON

    value, samples = torch.zeros(1, 9, 1, 16), torch.zeros(1, 1, 1, 9, 1, 2)
    arguments = Arguments.of(value, [1, 1] * 9, None, samples, samples[..., 0])
    with pytest.raises(ValueError, match="up to 8 levels, got 9"):
        TRITON.forward(arguments)
