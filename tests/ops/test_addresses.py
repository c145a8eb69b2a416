"""More than 2^31 elements in every tensor: the kernels' addresses, without the memory.

Tensors are mapped without being allocated, only the last image, head and queries are computed, and only the pages that
these touch come to exist.
"""

from __future__ import annotations

import ctypes
import mmap
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from detrex_ops import ms_deform_attn
from detrex_ops.extension import load_extension
from detrex_ops.kernels import REFERENCE, Arguments

ROOT = Path(__file__).parents[2]
LIMIT = 2**31
NO_RESERVE = {"linux": 0x4000, "darwin": 0x40}.get(sys.platform, 0)  # MAP_NORESERVE, which Python 3.10 cannot name
HEADS, CHANNELS, POINTS = 8, 32, 4
POINTERS = ("value", "reference", "samples", "weights", "output", "grad_output", "grad_value", "grad_samples",
            "grad_weights", "grad_reference")  # fmt: skip


class Problem(ctypes.Structure):
    """detrex_ops/csrc/problem.h"""

    _fields_ = (
        [("dtype", ctypes.c_int32)]
        + [(k, ctypes.c_int64) for k in ("batch", "tokens", "heads", "channels", "queries", "levels", "points")]
        + [("reference_size", ctypes.c_int64), ("spatial_shapes", ctypes.c_void_p)]
        + [(name, ctypes.c_void_p) for name in POINTERS]
        + [("num_threads", ctypes.c_int64), ("parallel_for", ctypes.c_void_p)]
    )


@pytest.fixture(scope="module")
def kernels(tmp_path_factory):
    """The kernels with a loop that runs only its last items."""
    compiler = shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        pytest.skip("needs a C++ compiler")
    library = tmp_path_factory.mktemp("last_item") / "last_item.so"
    command = [compiler, "-O1", "-std=c++17", "-fPIC", "-shared", "-w", f"-I{ROOT / 'detrex_ops/csrc'}"]
    subprocess.run([*command, str(ROOT / "tests/ops/last_item.cpp"), "-o", str(library)], check=True)
    return ctypes.CDLL(str(library))


def mapped(*shape: int) -> np.ndarray:
    """Float32 zeros in address space alone: a page exists once it is written."""
    size = 4 * int(np.prod(shape, dtype=object))
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | NO_RESERVE
    try:
        return np.frombuffer(mmap.mmap(-1, size, flags=flags), dtype=np.float32).reshape(shape)
    except OSError as error:
        pytest.skip(f"{size} bytes of address space are not to be had: {error}")


# (shapes, batch, queries): few queries read the tensor directly, many go through a copy of one head ("slab")
PROBLEMS = {
    "forward, direct": ([(128, 128)], 2**14, 8000),
    "forward, slab": ([(32, 32), (4, 4)], 2**13, 5000),
    "backward, direct": ([(64, 64)], 2**20, 65),
    "backward, slab": ([(4, 4)], 2**21, 64),
}


@pytest.mark.parametrize("reference_size", [0, 4])
@pytest.mark.parametrize("name", PROBLEMS)
def test_the_end_of_a_huge_problem(kernels, name, reference_size):
    shapes, batch, queries = PROBLEMS[name]
    backward = name.startswith("backward")
    levels, tokens = len(shapes), sum(height * width for height, width in shapes)
    sizes = {
        "value": (batch, tokens, HEADS, CHANNELS),
        "samples": (batch, queries, HEADS, levels, POINTS, 2),
        "weights": (batch, queries, HEADS, levels, POINTS),
        "output": (batch, queries, HEADS * CHANNELS),
        "reference": (batch, queries, levels, 4),
    }
    arrays = {key: mapped(*size) for key, size in sizes.items()}
    last = 1 if name == "forward, direct" else queries  # the queries of a loop's last item
    assert all(arrays[key].size > LIMIT for key in ("value", "samples", "weights", "output"))

    generator = np.random.default_rng(0)
    value = generator.standard_normal(sizes["value"][1:], dtype=np.float32)
    samples = generator.uniform(0.1, 0.9, (last, *sizes["samples"][2:])).astype(np.float32)
    weights = generator.standard_normal((last, *sizes["weights"][2:]), dtype=np.float32)
    reference = generator.uniform(0.4, 0.6, (last, levels, 4)).astype(np.float32)
    if reference_size:
        samples -= 0.5
    rows = slice(queries - last, queries)
    arrays["value"][-1] = value
    for key, part in (("samples", samples), ("weights", weights), ("reference", reference)):
        arrays[key][-1, rows] = part

    arguments = Arguments.of(
        torch.from_numpy(value)[None],
        [size for shape in shapes for size in shape],
        torch.from_numpy(reference)[None] if reference_size else None,
        torch.from_numpy(samples)[None],
        torch.from_numpy(weights)[None],
    )
    problem = Problem(0, batch, tokens, HEADS, CHANNELS, queries, levels, POINTS, reference_size, num_threads=2**12)
    flat = np.array(shapes, dtype=np.int64)
    problem.spatial_shapes = flat.ctypes.data
    if backward:
        grads = {f"grad_{key}": mapped(*sizes[key]) for key in ("value", "samples", "weights")}
        grads["grad_reference"] = mapped(batch, queries, HEADS, levels, 4)
        arrays["grad_output"] = arrays.pop("output")
        grad_output = generator.standard_normal((queries, HEADS * CHANNELS), dtype=np.float32)
        arrays["grad_output"][-1] = grad_output
        arrays |= grads
    if not reference_size:
        del arrays["reference"]
        arrays.pop("grad_reference", None)
    for key, array in arrays.items():
        setattr(problem, key, array.ctypes.data)
    assert kernels.run_last_items(ctypes.byref(problem), int(backward)) == 0

    head = np.s_[-CHANNELS:]  # the last head is the one that was computed
    if not backward:
        expected = REFERENCE.forward(arguments)[0].numpy()
        np.testing.assert_allclose(arrays["output"][-1, rows, head], expected[:, head], rtol=1e-4, atol=1e-4)
        return
    expected = REFERENCE.backward(torch.from_numpy(grad_output)[None], arguments, False)
    compared = {"grad_value": expected[0][0, :, -1], "grad_samples": expected[2][0, :, -1]}
    compared["grad_weights"] = expected[3][0, :, -1]
    for key, answer in compared.items():
        ours = arrays[key][-1, :, -1]
        np.testing.assert_allclose(ours, answer.numpy(), rtol=1e-3, atol=1e-3, err_msg=key)


@pytest.mark.skipif(not load_extension("cpu"), reason="the CPU extension is not built")
def test_a_level_beyond_the_kernels_offsets_is_an_error():
    """One head of one image with more than 2^31 elements, through the public function."""
    side = 2**15
    value = torch.from_numpy(mapped(1, side * side, 1, 3))
    samples, weights = torch.full((1, 1, 1, 1, 1, 2), 0.5), torch.ones(1, 1, 1, 1, 1)
    with pytest.raises(RuntimeError, match=r"one head of one image exceeds 2\^31 elements"):
        ms_deform_attn(value, [(side, side)], samples, weights)
