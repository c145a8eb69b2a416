"""The compiled CPU kernels against the reference, for each instruction set that this processor has."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from detrex_ops.extension import load_extension
from detrex_ops.kernels import CPU, REFERENCE, Arguments

from .conftest import LEVELS, make_case

pytestmark = pytest.mark.skipif(not load_extension("cpu"), reason="the CPU extension is not built")

TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 1e-2, torch.float16: 2e-3}
NAMES = ("output", "grad value", "grad reference points", "grad samples", "grad weights")


def assert_like_reference(case) -> None:
    arguments = Arguments.of(case.value, case.flat_shapes, case.reference_points, case.samples, case.weights)
    fused = case.reference_points is not None
    actual = [CPU.forward(arguments), *CPU.backward(case.grad_output, arguments, fused)]
    expected = [REFERENCE.forward(arguments), *REFERENCE.backward(case.grad_output, arguments, fused)]
    for name, ours, theirs in zip(NAMES, actual, expected, strict=True):
        if theirs is None:
            assert ours is None
            continue
        assert ours.dtype == theirs.dtype
        assert ours.shape == theirs.shape
        scale = theirs.double().abs().max().clamp(min=1e-30) if theirs.numel() else 1
        torch.testing.assert_close(
            ours.double() / scale,
            theirs.double() / scale,
            rtol=0,
            atol=TOLERANCE[case.value.dtype],
            msg=lambda text, name=name: f"{name}: {text}",
        )


def assert_all_widths_like_reference(**kind) -> None:
    """Odd, padded, whole and several blocks of channels; queries on either side of the choice of layout."""
    for channels, points, queries in ((1, 4, 2), (24, 1, 40), (32, 4, 40), (32, 4, 2), (160, 3, 40)):
        seed = channels + points
        assert_like_reference(make_case(queries=queries, channels=channels, points=points, seed=seed, **kind))


@pytest.mark.parametrize("reference_size", [0, 2, 4])
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("levels", ["pyramid", "odd", "single cell", "five"])
def test_like_reference(levels, dtype, reference_size):
    assert_all_widths_like_reference(levels=levels, dtype=dtype, reference_size=reference_size)


@pytest.fixture(params=["avx2", "plain"])
def instruction_set(request):
    """Another one than this processor's best, which all other tests run on."""
    use = torch.ops.detrex_ops_cpu.use_instruction_set
    try:
        use(request.param)
    except RuntimeError as error:
        pytest.skip(str(error))
    yield request.param
    use("")


@pytest.mark.parametrize("reference_size", [0, 4])
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_other_instruction_sets(instruction_set, dtype, reference_size):
    assert torch.ops.detrex_ops_cpu.instruction_set() == instruction_set
    assert_all_widths_like_reference(levels="five", dtype=dtype, reference_size=reference_size)


def test_float16_beyond_its_range_and_below_its_precision(instruction_set):
    """Conversions are instructions in one set and our own in another."""
    value = torch.tensor([65504, 6e-8, -6e-8, 5e-5, float("inf"), float("-inf"), float("nan"), -0.0]).half()
    case = make_case(levels="single cell", batch=1, queries=1, heads=1, channels=8, points=1, dtype=torch.float16)
    case.value[:], case.samples[:], case.weights[:] = value, 0.5, 1
    arguments = Arguments.of(case.value, case.flat_shapes, None, case.samples, case.weights)
    torch.testing.assert_close(CPU.forward(arguments).flatten(), value, rtol=0, atol=0, equal_nan=True)


def test_forced_and_unknown_instruction_sets():
    with pytest.raises(RuntimeError, match="instruction set sse9: this processor or build has no such kernel"):
        torch.ops.detrex_ops_cpu.use_instruction_set("sse9")
    code = "import detrex_ops, torch; detrex_ops.backend('cpu'); print(torch.ops.detrex_ops_cpu.instruction_set())"
    environment = {**os.environ, "DETREX_OPS_ISA": "plain"}
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "plain"


@pytest.mark.parametrize(("batch", "queries"), [(0, 5), (2, 0), (0, 0), (1, 1), (3, 1)])
def test_empty_and_tiny(batch, queries):
    for reference_size in (0, 2):
        assert_like_reference(make_case(batch=batch, queries=queries, reference_size=reference_size))


def test_many_points_and_levels():
    LEVELS["eight"] = [(9 - level, 10 - level) for level in range(8)]
    assert_like_reference(make_case(levels="eight", points=7, queries=12))
    del LEVELS["eight"]


def test_non_contiguous_arguments():
    case = make_case()
    strided = case.map(lambda tensor: tensor.transpose(0, 1).contiguous().transpose(0, 1))
    assert not strided.value.is_contiguous()
    expected = Arguments.of(case.value, case.flat_shapes, None, case.samples, case.weights)
    actual = Arguments.of(strided.value, case.flat_shapes, None, strided.samples, strided.weights)
    assert torch.equal(CPU.forward(actual), CPU.forward(expected))


@pytest.mark.parametrize("queries", [2, 200])
def test_far_and_non_finite_positions(queries):
    """A huge finite position reads zeros; NaN and infinities make their query NaN, and leave the others alone."""
    case = make_case(queries=queries, channels=16, points=1)
    case.samples[0, 0, 0, 0, 0, 0] = 1e30
    case.samples[0, 0, 0, 1, 0, 1] = -1e30
    case.samples[1, 0, 0, 0, 0, 0] = float("nan")
    case.samples[1, 0, 1, 1, 0, 1] = float("inf")
    case.samples[1, 1, 1, 1, 0, 0] = float("-inf")
    arguments = Arguments.of(case.value, case.flat_shapes, None, case.samples, case.weights)
    actual, expected = CPU.forward(arguments), REFERENCE.forward(arguments)
    assert expected[1, 0].isnan().all()
    assert not expected[0].isnan().any()
    torch.testing.assert_close(actual, expected, equal_nan=True)
    ours, theirs = (run.backward(case.grad_output, arguments, False) for run in (CPU, REFERENCE))
    torch.testing.assert_close(ours[0], theirs[0])
    for position in (2, 3):
        finite = theirs[position].isfinite()
        torch.testing.assert_close(ours[position][finite], theirs[position][finite], rtol=1e-4, atol=1e-4)


def test_infinite_values_stay_where_they_are():
    """A corner with an infinite value must not leak into samples whose other corners are outside the level."""
    case = make_case(levels="single cell", queries=50, channels=16)
    case.value[0, 0, 0, 0] = float("inf")
    arguments = Arguments.of(case.value, case.flat_shapes, None, case.samples, case.weights)
    torch.testing.assert_close(CPU.forward(arguments), REFERENCE.forward(arguments), equal_nan=True)


def test_on_the_borders_exactly():
    """Cell centres and outermost lines, where subgradients have to agree too. Powers of two: positions are exact."""
    case = make_case(levels="dyadic", queries=60, channels=16, dtype=torch.float64)
    for level, (height, width) in enumerate(case.shapes):
        size = torch.tensor([width, height])
        cells = (torch.randint(-3, 22, case.samples[:, :, :, level].shape) * 0.5).double()
        case.samples[:, :, :, level] = (cells + 0.5) / size
    assert_like_reference(case)


def test_direct_calls_are_checked():
    """The raw operator, behind the checks of the public function, refuses what it would read out of bounds."""
    case = make_case()
    output = torch.empty(2, 30, 64)

    def call(**changes):
        arguments = {"shapes": case.flat_shapes, "samples": case.samples, "weights": case.weights, "output": output}
        arguments |= changes
        shapes, samples, weights, target = arguments.values()
        torch.ops.detrex_ops_cpu.forward(case.value, shapes, None, samples, weights, target)

    call()
    for changes in (
        {"shapes": [100, 100, *case.flat_shapes[2:]]},
        {"shapes": case.flat_shapes[:4]},
        {"samples": case.samples.double()},
        {"samples": case.samples[:1]},
        {"weights": case.weights[:, :3]},
        {"output": output[:, :3].contiguous()},
        {"output": output.bfloat16()},
    ):
        with pytest.raises(RuntimeError):
            call(**changes)


def test_same_bits_for_any_number_of_threads():
    case = make_case(queries=400)
    arguments = Arguments.of(case.value, case.flat_shapes, None, case.samples, case.weights)
    threads = torch.get_num_threads()
    runs = []
    try:
        for count in (1, 2, 5, 16):
            torch.set_num_threads(count)
            runs.append([CPU.forward(arguments), *CPU.backward(case.grad_output, arguments, False)])
    finally:
        torch.set_num_threads(threads)
    for run in runs[1:]:
        assert all(torch.equal(a, b) for a, b in zip(run, runs[0], strict=True) if a is not None)
