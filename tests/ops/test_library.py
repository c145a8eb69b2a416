"""The operators as citizens of PyTorch: opcheck, autograd, autocast, compile, export."""

from __future__ import annotations

import pytest
import torch

import detrex_ops
from detrex_ops import ms_deform_attn, ms_deform_attn_fused, ms_deform_attn_reference

from .conftest import make_case

TESTS = ("test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_dynamic")


def call(case):
    if case.reference_points is None:
        return ms_deform_attn(case.value, case.shapes, case.samples, case.weights)
    return ms_deform_attn_fused(case.value, case.shapes, *case.tensors[1:])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("reference_size", [0, 2, 4])
def test_opcheck(reference_size, dtype):
    case = make_case(levels="odd", queries=3, channels=16, points=2, reference_size=reference_size, dtype=dtype)
    operators, value, *rest = torch.ops.detrex_ops, *case.requiring_grad().tensors
    name = "ms_deform_attn_fused" if reference_size else "ms_deform_attn"
    torch.library.opcheck(getattr(operators, name), (value, case.flat_shapes, *rest), test_utils=TESTS)
    flags = (True,) if reference_size else ()
    arguments = (case.grad_output, value, case.flat_shapes, *rest, *flags)
    backward = getattr(operators, f"{name}_backward")
    # Left out beside gradients: the dynamic trace, for the second derivative differentiates the reference by autograd
    # inside the operator, which a trace cannot hold. Eagerly gradgradcheck covers it; torch.compile never asks for it.
    torch.library.opcheck(backward, arguments, test_utils=TESTS[:3])
    detached = [argument.detach() if isinstance(argument, torch.Tensor) else argument for argument in arguments]
    torch.library.opcheck(backward, tuple(detached), test_utils=TESTS)


@pytest.mark.parametrize("reference_size", [0, 2, 4])
def test_first_and_second_derivatives(reference_size):
    case = make_case(
        levels="odd", queries=2, batch=1, channels=2, points=1, dtype=torch.float64, reference_size=reference_size
    ).requiring_grad()

    def run(value, *rest):
        if reference_size:
            return torch.ops.detrex_ops.ms_deform_attn_fused(value, case.flat_shapes, *rest)
        return torch.ops.detrex_ops.ms_deform_attn(value, case.flat_shapes, *rest)

    assert torch.autograd.gradcheck(run, case.tensors)
    assert torch.autograd.gradgradcheck(run, case.tensors)


def test_reference_points_without_gradient():
    case = make_case(reference_size=4).requiring_grad()
    case.reference_points.requires_grad_(False)
    call(case).backward(case.grad_output)
    assert case.reference_points.grad is None
    assert all(tensor.grad is not None for tensor in (case.value, case.samples, case.weights))


def test_autocast_takes_the_value_in_16_bits_and_leaves_positions_alone():
    case = make_case().requiring_grad()
    with torch.autocast("cpu", torch.bfloat16):
        output = call(case)
    assert output.dtype == torch.bfloat16
    expected = ms_deform_attn_reference(case.value.bfloat16(), case.shapes, case.samples, case.weights)
    torch.testing.assert_close(output, expected, rtol=1e-2, atol=2e-2)
    output.float().sum().backward()
    assert [tensor.grad.dtype for tensor in case.tensors] == [torch.float32] * 3


def test_16_bit_positions_are_accepted_and_give_16_bit_gradients():
    case = make_case(dtype=torch.bfloat16).map(lambda tensor: tensor.bfloat16()).requiring_grad()
    output = call(case)
    output.backward(case.grad_output)
    assert [tensor.grad.dtype for tensor in case.tensors] == [torch.bfloat16] * 3
    expected = ms_deform_attn_reference(case.value, case.shapes, case.samples, case.weights)
    torch.testing.assert_close(output, expected, rtol=2e-2, atol=2e-2)


def resized(case, shapes):
    generator = torch.Generator().manual_seed(1)
    tokens = sum(height * width for height, width in shapes)
    value = torch.randn(2, tokens, 2, 32, generator=generator)
    return type(case)(value, shapes, None, case.samples, case.weights, case.grad_output).requiring_grad()


def test_one_graph_serves_all_sizes():
    """Values and shapes from feature maps of changing size: compiled at most twice (static, then dynamic), no break."""
    compilations = []

    def counting_backend(graph, inputs):
        compilations.append(graph)
        return graph.forward

    def model(maps, samples, weights):
        shapes = [tuple(level.shape[-2:]) for level in maps]
        value = torch.cat([level.flatten(2).transpose(1, 2) for level in maps], 1).unflatten(-1, (2, 16))
        return ms_deform_attn(value, shapes, samples, weights)

    compiled = torch.compile(model, backend=counting_backend, fullgraph=True)
    case = make_case(levels="odd", channels=16)
    for step in range(5):
        maps = [torch.randn(2, 32, 8 + step + level, 20 - step * 2 - level) for level in range(3)]
        torch.testing.assert_close(compiled(maps, case.samples, case.weights), model(maps, case.samples, case.weights))
    assert len(compilations) <= 2
    assert any("ms_deform_attn" in str(node.target) for node in compilations[-1].graph.nodes)


def test_compiled_training_step_equals_eager():
    case = make_case(queries=5, reference_size=2)
    eager, traced = case.requiring_grad(), case.requiring_grad()
    call(eager).square().sum().backward()
    torch.compile(lambda: call(traced).square().sum(), backend="aot_eager", fullgraph=True)().backward()
    for ours, theirs in zip(traced.tensors, eager.tensors, strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("reference_size", [0, 4])
def test_export_keeps_standard_operators(reference_size):
    case = make_case(queries=5, reference_size=reference_size)

    class Model(torch.nn.Module):
        def forward(self, value, *rest):
            if reference_size:
                return ms_deform_attn_fused(value, case.shapes, *rest)
            return ms_deform_attn(value, case.shapes, *rest)

    exported = torch.export.export(Model(), case.tensors)
    targets = {str(node.target) for node in exported.graph.nodes if node.op == "call_function"}
    assert any("grid_sampler" in target for target in targets)
    assert not any("detrex_ops" in target for target in targets)
    torch.testing.assert_close(exported.module()(*case.tensors), call(case), rtol=1e-4, atol=1e-5)


def test_fused_saves_memory_against_plain():
    """What autograd keeps: logits and offsets, and neither locations nor weights."""
    case = make_case(reference_size=2).requiring_grad()
    if detrex_ops.backend("cpu") == "reference":
        pytest.skip("the reference materialises them")
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: saved.append(tensor) or tensor, lambda tensor: tensor):
        call(case)
    assert {tensor.data_ptr() for tensor in saved} == {tensor.data_ptr() for tensor in case.tensors}


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
def test_traces_and_compilations_see_the_operator():
    case = make_case(queries=2, batch=1)
    graphs = []

    def run(value):
        return ms_deform_attn(value, case.shapes, case.samples, case.weights)

    def keep(graph, inputs):
        graphs.append(str(graph.graph))
        return graph.forward

    expected = run(case.value)
    traced = torch.jit.trace(run, case.value, check_trace=False)
    compiled = torch.compile(run, backend=keep, fullgraph=True)
    torch.testing.assert_close(traced(case.value), expected)
    torch.testing.assert_close(compiled(case.value), expected)
    assert "detrex_ops::ms_deform_attn" in str(traced.graph)
    assert "detrex_ops.ms_deform_attn" in graphs[0]
