"""The operator under abuse: for any call, an error message or the reference's answer.

10,000 calls; the variable DETREX_TEST_SHARE=0.1 runs a tenth. `make compute-sanitizer` runs them on CUDA kernels.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass, replace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from detrex_ops import ms_deform_attn, ms_deform_attn_fused
from detrex_ops.extension import load_extension
from detrex_ops.reference import ms_deform_attn_fused_reference, ms_deform_attn_reference, sampling_locations

from .conftest import Case

TOLERANCE = {torch.float64: 1e-11, torch.float32: 2e-5, torch.bfloat16: 1e-2, torch.float16: 2e-3}
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"))]
LAYOUTS = ("contiguous", "transposed", "strided", "expanded", "shifted")
# Sanitizers, which are slower, run a share of them.
SHARE = float(os.environ.get("DETREX_TEST_SHARE", "1"))
COUNTS = {"valid": 1500, "damaged": 5500, "raw": 2950, "meta": 50}
EXAMPLES = {name: max(int(count * SHARE), 10) for name, count in COUNTS.items()}
POSITIONS = ("around", "on borders", "far", "not finite")

quiet = settings(
    database=None,
    deadline=None,
    derandomize=True,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


@dataclass(frozen=True)
class Problem:
    """Everything about a call but its numbers."""

    shapes: list[tuple[int, int]]
    batch: int
    queries: int
    heads: int
    channels: int
    points: int
    dtype: torch.dtype
    reference_size: int
    layouts: tuple[str, ...]
    positions: str
    narrow_samples: bool
    instructions: str
    seed: int


problems = st.builds(
    Problem,
    shapes=st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=4),
    batch=st.integers(0, 3),
    queries=st.integers(0, 20),
    heads=st.integers(1, 3),
    channels=st.sampled_from([1, 2, 3, 4, 8, 15, 16, 17, 32, 40]),
    points=st.integers(1, 5),
    dtype=st.sampled_from(list(TOLERANCE)),
    reference_size=st.sampled_from([0, 2, 4]),
    layouts=st.tuples(*[st.sampled_from(LAYOUTS)] * 4),
    positions=st.sampled_from(POSITIONS),
    narrow_samples=st.booleans(),
    instructions=st.sampled_from(["", "avx2", "plain"]),
    seed=st.integers(0, 2**31),
)


def laid_out(tensor: Tensor, layout: str) -> Tensor:
    """The same numbers with other strides; "expanded" repeats the first of the batch."""
    match layout:
        case "transposed":
            return tensor.transpose(0, 1).contiguous().transpose(0, 1)
        case "strided":
            wide = torch.full((*tensor.shape[:-1], 2 * tensor.shape[-1]), float("nan"), dtype=tensor.dtype)
            wide = wide.to(tensor.device)
            wide[..., ::2] = tensor
            return wide[..., ::2]
        case "expanded" if tensor.shape[0]:
            return tensor[:1].expand_as(tensor)
        case "shifted":
            longer = torch.cat([tensor.new_full((1,), float("nan")), tensor.flatten()])
            return longer[1:].view(tensor.shape)
    return tensor


def spoil(samples: Tensor, shapes: list[tuple[int, int]], kind: str, generator: torch.Generator) -> Tensor:
    """Sampling locations of a kind, in a tensor of ordinary ones."""
    if kind == "on borders":
        sizes = torch.tensor([(width, height) for height, width in shapes], dtype=samples.dtype)[:, None]
        halves = torch.randint(-3, 22, samples.shape, generator=generator).to(samples.dtype) / 2
        return halves / sizes
    chosen = torch.rand(samples.shape, generator=generator) < 0.2
    if kind == "far":
        sign = torch.where(torch.rand(samples.shape, generator=generator) < 0.5, -1.0, 1.0)
        exponent = torch.randint(1, 31, samples.shape, generator=generator)
        return torch.where(chosen, sign.to(samples.dtype) * 10.0**exponent, samples)
    if kind == "not finite":
        values = torch.tensor([float("nan"), float("inf"), float("-inf")], dtype=samples.dtype)
        return torch.where(chosen, values[torch.randint(0, 3, samples.shape, generator=generator)], samples)
    return samples


def build(problem: Problem, device: str) -> Case:
    generator = torch.Generator().manual_seed(problem.seed)
    p, levels = problem, len(problem.shapes)
    wide = torch.float64 if p.dtype == torch.float64 else torch.float32

    def normal(*size: int) -> Tensor:
        return torch.randn(size, generator=generator, dtype=wide)

    tokens = sum(height * width for height, width in p.shapes)
    samples = torch.rand((p.batch, p.queries, p.heads, levels, p.points, 2), generator=generator, dtype=wide)
    samples = spoil(samples * 1.5 - 0.25, p.shapes, p.positions, generator)
    reference_points = None
    if p.reference_size:
        reference_points = torch.rand((p.batch, p.queries, levels, p.reference_size), generator=generator, dtype=wide)
    narrow = p.dtype if p.narrow_samples else wide
    value, weights = normal(p.batch, tokens, p.heads, p.channels).to(p.dtype), normal(*samples.shape[:-1]).to(narrow)
    tensors = [value, samples.to(narrow), weights]
    if reference_points is not None:
        tensors.append(reference_points.to(narrow))
    placed = [laid_out(t.to(device), layout) for t, layout in zip(tensors, p.layouts, strict=False)]
    grad_output = normal(p.batch, p.queries, p.heads * p.channels).to(p.dtype).to(device)
    points = placed[3] if len(placed) == 4 else None
    return Case(placed[0], p.shapes, points, placed[1], placed[2], laid_out(grad_output, p.layouts[0]))


def run(case: Case, plain, fused) -> list[Tensor]:
    """Output and gradients, in the order of ``case.tensors``, by one implementation."""
    leaves = case.map(lambda tensor: tensor.detach().requires_grad_())
    if leaves.reference_points is None:
        output = plain(leaves.value, case.shapes, leaves.samples, leaves.weights)
    else:
        output = fused(leaves.value, case.shapes, *leaves.tensors[1:])
    return [output.detach(), *torch.autograd.grad(output, leaves.tensors, case.grad_output)]


def smooth(case: Case) -> Tensor:
    """(B, Q, N, L, P): samples away from the lines of cell centres, where the gradient of a position jumps."""
    locations = case.samples.double()
    if case.reference_points is not None:
        locations = sampling_locations(case.reference_points.double(), locations, case.shapes)
    sizes = torch.tensor([(width, height) for height, width in case.shapes], device=locations.device)[:, None]
    cells = locations * sizes - 0.5
    return (((cells - cells.round()).abs() > 1e-3) | (cells.abs() > 100)).all(-1)


def assert_like_reference(case: Case) -> None:
    actual = run(case, ms_deform_attn, ms_deform_attn_fused)
    expected = run(case, ms_deform_attn_reference, ms_deform_attn_fused_reference)
    names = ["output", "value", *["reference points"] * (case.reference_points is not None), "samples", "weights"]
    for name, ours, theirs in zip(names, actual, expected, strict=True):
        assert (ours.shape, ours.dtype, ours.device) == (theirs.shape, theirs.dtype, theirs.device), name
        compared = theirs.isfinite()
        if name in ("output", "value"):
            assert torch.equal(ours.isfinite(), compared), f"{name}: not finite elsewhere"
        if name == "samples":
            compared = compared & smooth(case)[..., None]
        elif name == "reference points":
            compared = compared & smooth(case).all(4).all(2)[..., None]
        if compared.any():
            scale = max(theirs[theirs.isfinite()].double().abs().max().item(), 1e-30)
            error = (ours[compared].double() - theirs[compared].double()).abs().max().item()
            assert error <= scale * TOLERANCE[case.value.dtype], f"{name}: off by {error} beside {scale}"


@pytest.fixture
def instructions():
    """Selects an instruction set; the best one where the wish is not to be had."""
    if not load_extension("cpu"):
        return lambda name: None

    def use(name: str) -> None:
        with contextlib.suppress(RuntimeError):
            torch.ops.detrex_ops_cpu.use_instruction_set(name)

    yield use
    use("")


@pytest.mark.parametrize("device", DEVICES)
def test_valid_calls_give_the_references_answer(device, instructions):
    @settings(quiet, max_examples=EXAMPLES["valid"])
    @given(problems)
    def check(problem: Problem) -> None:
        instructions(problem.instructions)
        assert_like_reference(build(problem, device))

    check()


def damaged(tensor: Tensor, how: str, axis: int) -> Tensor:
    axis %= max(tensor.dim(), 1)
    match how:
        case "an axis less":
            return tensor.sum(axis)
        case "an axis more":
            return tensor.unsqueeze(axis)
        case "longer":
            return torch.cat([tensor, tensor.narrow(axis, 0, min(1, tensor.shape[axis]))], axis)
        case "shorter":
            return tensor.narrow(axis, 0, max(tensor.shape[axis] - 1, 0))
        case "empty":
            return tensor.narrow(axis, 0, 0)
        case "transposed":
            return tensor.transpose(0, axis)
        case "meta":
            return tensor.to("meta")
        case "sparse":
            return tensor.to_sparse()
    return tensor.to(getattr(torch, how))


def damaged_shapes(shapes: list, how: str, level: int) -> object:
    level %= len(shapes)
    height, width = shapes[level]
    replaced = {
        "swapped": (width, height),
        "zero": (0, width),
        "negative": (-height, -width),
        "huge": (2**32, 2**32),
        "beyond 64 bits": (2**70, 1),
        "fractions": (float(height), float(width)),
        "three": (height, width, 1),
        "text": ("3", "4"),
        "none": None,
    }
    if how == "tensor":
        return torch.tensor(shapes)
    if how == "missing":
        return shapes[:level] + shapes[level + 1 :]
    return [*shapes[:level], replaced[how], *shapes[level + 1 :]]


HOW_TENSORS = ("an axis less", "an axis more", "longer", "shorter", "empty", "transposed", "meta", "sparse", "float16",
               "bfloat16", "float32", "float64", "int64", "bool", "complex64")  # fmt: skip
HOW_SHAPES = ("swapped", "zero", "negative", "huge", "beyond 64 bits", "fractions", "three", "text", "none", "tensor",
              "missing")  # fmt: skip
damages = st.one_of(
    st.tuples(st.integers(0, 3), st.sampled_from(HOW_TENSORS), st.integers(0, 5)),
    st.tuples(st.just(4), st.sampled_from(HOW_SHAPES), st.integers(0, 3)),
)


def arguments_of(problem: Problem, damage: tuple[int, str, int], device: str) -> tuple[list, object]:
    """Tensors of a case and its shapes, one of them damaged."""
    case = build(replace(problem, positions="around", layouts=("contiguous",) * 4), device)
    tensors, shapes = list(case.tensors), case.shapes
    which, how, where = damage
    if which == 4:
        shapes = damaged_shapes(shapes, how, where)
    else:
        tensors[which % len(tensors)] = damaged(tensors[which % len(tensors)], how, where)
    return tensors, shapes


@pytest.mark.parametrize("device", DEVICES)
def test_damaged_calls_raise_or_give_the_references_answer(device):
    @settings(quiet, max_examples=EXAMPLES["damaged"])
    @given(problems, damages)
    def check(problem: Problem, damage: tuple[int, str, int]) -> None:
        (value, *rest), shapes = arguments_of(problem, damage, device)
        fused = problem.reference_size != 0
        try:
            output = (ms_deform_attn_fused if fused else ms_deform_attn)(value, shapes, *rest)
        except (ValueError, TypeError):
            return
        expected = (ms_deform_attn_fused_reference if fused else ms_deform_attn_reference)(value, shapes, *rest)
        assert (output.shape, output.dtype, output.device) == (expected.shape, expected.dtype, expected.device)
        if output.device.type != "meta":
            tolerance = 2 * TOLERANCE[value.dtype]
            torch.testing.assert_close(output, expected, rtol=tolerance, atol=10 * tolerance)

    check()


@pytest.mark.skipif(not load_extension("cpu"), reason="the CPU extension is not built")
def test_damaged_calls_of_the_raw_operators_raise_or_run(instructions):
    """Behind the public functions' checks; what is not refused must stay within its memory, as sanitizers can tell."""
    raised = 0

    @settings(quiet, max_examples=EXAMPLES["raw"])
    @given(problems, damages, st.booleans())
    def check(problem: Problem, damage: tuple[int, str, int], backward: bool) -> None:
        nonlocal raised
        instructions(problem.instructions)
        (value, *rest), shapes = arguments_of(problem, damage, "cpu")
        points = rest[0] if problem.reference_size else None
        samples, weights = rest[-2:]
        output = torch.zeros(problem.batch, problem.queries, problem.heads * problem.channels, dtype=problem.dtype)
        inputs = (value, None, points, samples, weights)
        try:
            flat = [size for shape in shapes for size in shape]
            inputs = (value, flat, points, samples, weights)
            if backward:
                grads = [None if t is None else torch.zeros_like(t) for t in (value, None, samples, weights)]
                torch.ops.detrex_ops_cpu.backward(output, *inputs, *grads)
            else:
                torch.ops.detrex_ops_cpu.forward(*inputs, output)
        except (RuntimeError, TypeError, ValueError, NotImplementedError):
            raised += 1

    check()
    assert raised > EXAMPLES["raw"] / 2


@settings(quiet, max_examples=EXAMPLES["meta"])
@given(problems, st.integers(1, 2**20))
def test_meta_tensors_of_any_size(problem: Problem, many: int):
    """Shapes alone, here and in the fake kernels; far more elements than any memory holds."""
    batch, queries, shapes = many, 4096, [(2048, height * width) for height, width in problem.shapes]
    levels, tokens = len(shapes), sum(height * width for height, width in shapes)
    wide = torch.float64 if problem.dtype == torch.float64 else torch.float32
    value = torch.empty(batch, tokens, problem.heads, problem.channels, dtype=problem.dtype, device="meta")
    samples = torch.empty(batch, queries, problem.heads, levels, problem.points, 2, dtype=wide, device="meta")
    weights = torch.empty(samples.shape[:-1], dtype=wide, device="meta")
    expected = (batch, queries, problem.heads * problem.channels)
    flat = [size for shape in shapes for size in shape]
    for output in (
        ms_deform_attn(value, shapes, samples, weights),
        torch.ops.detrex_ops.ms_deform_attn(value, flat, samples, weights),
    ):
        assert (output.shape, output.dtype, output.device.type) == (expected, problem.dtype, "meta")
