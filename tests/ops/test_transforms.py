"""The operator under function transforms (torch.func) and in forward mode: right values, or an error for each."""

from __future__ import annotations

import pytest
import torch
from torch.autograd import forward_ad
from torch.func import grad, hessian, jacfwd, jacrev, jvp, vjp, vmap

from detrex_ops import ms_deform_attn, ms_deform_attn_fused

from .conftest import make_case

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")  # torch.func's own
STEP = 1e-6


@pytest.fixture(params=[0, 2, 4], ids=["plain", "points", "boxes"])
def problem(request):
    """The operator as a function of its tensors, and these."""
    case = make_case(
        levels="odd", queries=2, batch=1, channels=2, points=1, dtype=torch.float64, reference_size=request.param
    )

    def run(value, *rest):
        return (ms_deform_attn_fused if request.param else ms_deform_attn)(value, case.shapes, *rest)

    return run, case.tensors


@pytest.fixture(params=["auto", "reference"], autouse=True)
def backend(request, monkeypatch):
    monkeypatch.setenv("DETREX_OPS", request.param)


def slope(run, tensors, tangents):
    """By finite differences, through the kernels where they are there."""
    ahead = run(*(t + STEP * d for t, d in zip(tensors, tangents, strict=True)))
    behind = run(*(t - STEP * d for t, d in zip(tensors, tangents, strict=True)))
    return (ahead - behind) / (2 * STEP)


def tangents_of(tensors):
    generator = torch.Generator().manual_seed(1)
    return tuple(torch.randn(t.shape, generator=generator, dtype=t.dtype) for t in tensors)


def loss_of(run, tensors, index):
    """A scalar function of one of the tensors, and that tensor."""
    before, after = tensors[:index], tensors[index + 1 :]
    return (lambda tensor: run(*before, tensor, *after).square().sum()), tensors[index]


def close(actual, expected):
    assert expected.abs().max() > 0
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-6)


def test_jvp_is_the_slope_and_not_zero(problem):
    run, tensors = problem
    tangents = tangents_of(tensors)
    output, derivative = jvp(run, tensors, tangents)
    close(output, run(*tensors))
    close(derivative, slope(run, tensors, tangents))


@pytest.mark.parametrize("requires_grad", [False, True])
def test_forward_mode_is_the_slope_and_not_zero(problem, requires_grad):
    run, tensors = problem
    tangents = tangents_of(tensors)
    with forward_ad.dual_level():
        inputs = (t.clone().requires_grad_(requires_grad) for t in tensors)
        duals = [forward_ad.make_dual(t, d) for t, d in zip(inputs, tangents, strict=True)]
        derivative = forward_ad.unpack_dual(run(*duals)).tangent
    close(derivative, slope(run, tensors, tangents))


@pytest.mark.parametrize(
    "transform",
    [grad, jacrev, jacfwd, lambda f: lambda t: vjp(f, t)[1](torch.ones((), dtype=t.dtype))[0]],
    ids=["grad", "jacrev", "jacfwd", "vjp"],
)
def test_derivatives_are_autograd_s(problem, transform):
    run, tensors = problem
    for index in range(len(tensors)):
        loss, tensor = loss_of(run, tensors, index)
        tracked = tensor.clone().requires_grad_()
        close(transform(loss)(tensor), torch.autograd.grad(loss(tracked), tracked)[0])


def test_second_derivatives_are_autograd_s(problem):
    run, tensors = problem
    loss, weights = loss_of(run, tensors, len(tensors) - 1)
    close(hessian(loss)(weights), torch.autograd.functional.hessian(loss, weights))


def test_vmap_is_a_loop(problem):
    run, tensors = problem
    batches = [torch.stack([t, 0.5 * t]) for t in tensors]
    close(vmap(run)(*batches), torch.stack([run(*parts) for parts in zip(*batches, strict=True)]))
    value, *rest = tensors
    close(vmap(lambda weights: run(value, *rest[:-1], weights))(batches[-1])[1], run(value, *rest[:-1], batches[-1][1]))


def test_gradients_of_each_example(problem):
    run, tensors = problem
    loss, value = loss_of(run, tensors, 0)
    values = torch.stack([value, 2 * value])
    close(vmap(grad(loss))(values), torch.stack([grad(loss)(one) for one in values]))


def test_a_position_that_is_not_finite_spoils_its_query_only(problem):
    run, (value, *rest) = problem
    rest = [tensor.clone() for tensor in rest]
    rest[-2][0, 0, 0, 0, 0, 0] = float("nan")
    expected = run(value, *rest)
    assert expected.isnan().any()
    torch.testing.assert_close(jvp(lambda v: run(v, *rest), (value,), (value,))[0], expected, equal_nan=True)


def test_the_operator_itself_refuses_forward_mode():
    """Reached by torch.ops only: no other way leads there, and the derivative would be zero."""
    case = make_case(dtype=torch.float64)

    def run(value):
        return torch.ops.detrex_ops.ms_deform_attn(value, case.flat_shapes, case.samples, case.weights)

    with pytest.raises(RuntimeError, match=r"no derivatives in forward mode: call detrex_ops\.ms_deform_attn"):
        jvp(run, (case.value,), (case.value,))
