"""Calls without torch's dispatcher: the same answers and derivatives, and never where somebody listens."""

from __future__ import annotations

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import forward_ad
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from detrex_ops import direct, ms_deform_attn, ms_deform_attn_fused

from .conftest import make_case


def functions(reference_size: int):
    """The public function, the direct one and the operator."""
    if reference_size:
        return ms_deform_attn_fused, direct.ms_deform_attn_fused, torch.ops.detrex_ops.ms_deform_attn_fused
    return ms_deform_attn, direct.ms_deform_attn, torch.ops.detrex_ops.ms_deform_attn


@pytest.mark.parametrize("reference_size", [0, 2, 4])
def test_the_same_as_the_operator(reference_size):
    _, directly, operator = functions(reference_size)
    results = []
    for function in (directly, operator):
        case = make_case(reference_size=reference_size).requiring_grad()
        output = function(case.value, case.flat_shapes, *case.tensors[1:])
        results.append([output, *torch.autograd.grad(output, case.tensors, case.grad_output)])
    torch.testing.assert_close(results[0], results[1], rtol=0, atol=0)


@pytest.mark.parametrize("reference_size", [0, 2, 4])
def test_derivatives(reference_size):
    case = make_case(
        levels="odd", queries=2, batch=1, channels=2, points=1, dtype=torch.float64, reference_size=reference_size
    ).requiring_grad()
    directly = functions(reference_size)[1]

    def run(value, *rest):
        return directly(value, case.flat_shapes, *rest)

    assert torch.autograd.gradcheck(run, case.tensors)
    assert torch.autograd.gradgradcheck(run, case.tensors)


@pytest.mark.parametrize("reference_size", [0, 4])
@pytest.mark.parametrize("with_grad", [False, True])
def test_the_public_functions_take_it(reference_size, with_grad, monkeypatch):
    public, directly, _ = functions(reference_size)
    called = []
    monkeypatch.setattr(direct, directly.__name__, lambda *inputs: called.append(1) or directly(*inputs))
    case = make_case(reference_size=reference_size)
    case = case.requiring_grad() if with_grad else case
    assert public(case.value, case.shapes, *case.tensors[1:]).requires_grad == with_grad
    assert called == [1]


class Recording(TorchDispatchMode):
    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        return function(*args, **(kwargs or {}))


class Functions(TorchFunctionMode):
    def __torch_function__(self, function, types, args=(), kwargs=None):
        return function(*args, **(kwargs or {}))


class Subclass(torch.Tensor):
    pass


LISTENERS = {
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "a dispatch mode": Recording,
    "a function mode": Functions,
    "fake tensors": FakeTensorMode,
    "forward-mode derivatives": forward_ad.dual_level,
}


@pytest.mark.parametrize("name", LISTENERS)
def test_somebody_listens(name):
    tensors = (torch.zeros(1), torch.nn.Parameter(torch.zeros(1)))
    assert direct.may_call_directly(tensors)
    with LISTENERS[name]():
        assert not direct.may_call_directly(tensors)
    assert direct.may_call_directly(tensors)


def test_a_subclass_of_a_tensor():
    assert not direct.may_call_directly((torch.zeros(1), torch.zeros(1).as_subclass(Subclass)))


def test_a_device_without_kernels():
    assert not direct.may_call_directly((torch.zeros(1, device="meta"),))


def test_a_transform():
    given = []
    torch.func.vmap(lambda row: given.append(direct.may_call_directly((row,))) or row)(torch.zeros(2, 3))
    assert given == [False]


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
