"""Which backend runs, and that nothing falls back in silence."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import detrex_ops
from detrex_ops import backends, extension
from detrex_ops.extension import load_extension
from detrex_ops.kernels import CPU, REFERENCE
from detrex_ops.self_test import self_test

from .conftest import make_case


def test_unknown_choice(monkeypatch):
    monkeypatch.setenv("DETREX_OPS", "gpu")
    with pytest.raises(ValueError, match="DETREX_OPS=gpu: expected one of auto, require, reference, cpu, cuda, triton"):
        detrex_ops.backend("cpu")


def test_forced_reference(monkeypatch):
    monkeypatch.setenv("DETREX_OPS", "reference")
    assert detrex_ops.backend("cpu") == "reference"
    case = make_case()
    expected = detrex_ops.ms_deform_attn_reference(case.value, case.shapes, case.samples, case.weights)
    assert torch.equal(detrex_ops.ms_deform_attn(case.value, case.shapes, case.samples, case.weights), expected)


def test_devices_without_kernels_run_the_reference():
    assert detrex_ops.backend("meta") == "reference"


@pytest.mark.parametrize("choice", ["require", "cpu"])
def test_missing_kernel_is_an_error_where_asked_for(choice, monkeypatch):
    monkeypatch.setattr(backends, "load_extension", lambda name: False)
    backends._select.cache_clear()
    monkeypatch.setenv("DETREX_OPS", choice)
    with pytest.raises(RuntimeError, match=f"DETREX_OPS={choice}, but"):
        detrex_ops.backend("cpu")
    monkeypatch.undo()
    backends._select.cache_clear()


@pytest.mark.skipif(not load_extension("cpu"), reason="the CPU extension is not built")
def test_compiled_kernel_is_chosen(monkeypatch):
    monkeypatch.delenv("DETREX_OPS", raising=False)
    assert detrex_ops.backend("cpu") == "cpu"


@pytest.mark.skipif(not load_extension("cpu"), reason="the CPU extension is not built")
def test_the_first_use_of_a_device_runs_the_self_test_once(monkeypatch):
    monkeypatch.delenv("DETREX_OPS", raising=False)
    tested = []
    monkeypatch.setattr(backends, "self_test", lambda implementation, device: tested.append((implementation, device)))
    backends._select.cache_clear()
    case = make_case(levels="odd", queries=3)
    for _ in range(2):
        detrex_ops.ms_deform_attn(case.value, case.shapes, case.samples, case.weights)
    backends._select.cache_clear()
    assert tested == [(CPU, torch.device("cpu"))]


def test_an_extension_for_another_torch_is_said(tmp_path, monkeypatch):
    (tmp_path / "_cpu.abi3.so").write_text("not a library")
    monkeypatch.setattr(extension, "__file__", str(tmp_path / "extension.py"))
    with pytest.warns(RuntimeWarning, match=r"_cpu\.abi3\.so was built for another torch than .* Build it again: pip"):
        assert not load_extension.__wrapped__("cpu")


def test_self_test_finds_a_wrong_kernel():
    wrong = replace(REFERENCE, name="wrong", forward=lambda arguments: REFERENCE.forward(arguments) * 1.01)
    with pytest.raises(RuntimeError, match="wrong kernel on cpu differs from the reference: output"):
        self_test(wrong, torch.device("cpu"))

    def flipped(grad_output, arguments, with_reference_points):
        value, points, samples, weights = REFERENCE.backward(grad_output, arguments, with_reference_points)
        return value, points, samples.flip(-1), weights

    with pytest.raises(RuntimeError, match="gradient of samples"):
        self_test(replace(REFERENCE, name="wrong", backward=flipped), torch.device("cpu"))


def test_self_test_names_a_kernel_that_raises():
    def missing(arguments):
        raise RuntimeError("no kernel image is available")

    with pytest.raises(RuntimeError, match=r"fails: no kernel image is available\. Set DETREX_OPS=reference"):
        self_test(replace(CPU, forward=missing), torch.device("cpu"))


def test_self_test_runs_under_any_mode():
    """First use may be under inference mode, autocast or fake tensors; random numbers stay as they are."""
    state = torch.get_rng_state()
    with torch.inference_mode(), torch.autocast("cpu"), torch._subclasses.FakeTensorMode():
        self_test(REFERENCE, torch.device("cpu"))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_the_self_test_can_run_inside_a_trace():
    """torch.jit.trace, which FLOP counters use, makes tensors of sizes; the first call may happen in one."""
    backends._select.cache_clear()
    value, points = torch.rand(1, 6, 2, 4), torch.rand(1, 3, 2, 1, 2, 2)
    weights = torch.rand(1, 3, 2, 1, 2)
    with torch.no_grad():
        traced = torch.jit.trace(lambda *tensors: detrex_ops.ms_deform_attn(tensors[0], [(2, 3)], *tensors[1:]),
                                 (value, points, weights), check_trace=False)  # fmt: skip
        expected = detrex_ops.ms_deform_attn_reference(value, [(2, 3)], points, weights)
    torch.testing.assert_close(traced(value, points, weights), expected)
