"""The operator's properties under AddressSanitizer and UndefinedBehaviorSanitizer, in a process of their own."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from . import sanitized

pytestmark = [
    pytest.mark.skipif(not sanitized.runtime(), reason="g++ with libasan is not there"),
    pytest.mark.timeout(1800),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The build, made once; the repository's own where there is one."""
    existing = sanitized.ROOT / "build/sanitized"
    return existing if existing.is_dir() else tmp_path_factory.mktemp("sanitized")


def sanitize(folder, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
    command = [sys.executable, sanitized.__file__, "--build", str(folder), *arguments]
    variables = {**os.environ, **environment}
    return subprocess.run(command, env=variables, capture_output=True, text=True, timeout=1700, check=False)


def test_properties(folder):
    result = sanitize(folder, "tests/ops/test_properties.py", DETREX_TEST_SHARE="0.05")
    assert result.returncode == 0, result.stdout[-4000:] + result.stderr[-4000:]
    assert " passed" in result.stdout


PROBE = """
import numpy as np
import torch
import detrex_ops


def test_probe():
    assert "FOLDER" in detrex_ops.__file__
    assert detrex_ops.backend("cpu") == "cpu"
    memory = np.zeros(64, dtype=np.float32)  # two tokens of four
    value = np.lib.stride_tricks.as_strided(memory, (1, 4, 1, 32), (512, 128, 128, 4))
    samples, weights = torch.full((1, 1, 1, 1, 1, 2), 0.5), torch.ones(1, 1, 1, 1, 1)
    detrex_ops.ms_deform_attn(torch.from_numpy(value), [(2, 2)], samples, weights)
"""


def test_a_read_out_of_bounds_is_found(folder, tmp_path):
    """A tensor that claims more memory than it has: the sanitizer is at work and stops the run."""
    (tmp_path / "test_probe.py").write_text(PROBE.replace("FOLDER", str(folder)))
    result = sanitize(folder, str(tmp_path / "test_probe.py"))
    assert result.returncode != 0
    assert "AddressSanitizer: heap-buffer-overflow" in result.stdout + result.stderr
    assert "detrex_ops/csrc/cpu" in result.stdout + result.stderr
