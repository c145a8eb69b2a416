"""What the CUDA kernels cost on paper: registers, shared memory, instructions per sample, read off the machine code.

    python benchmarks/cuda_machine_code.py [--architecture 90]

Needs nvcc and nvdisasm (of the CUDA toolkit, or Triton's), and no GPU. A warp serves 32 / lanes queries at a time, so
instructions per sample are shared by as many samples. Writes results/cuda_machine_code.{md,json}.
"""

from __future__ import annotations

import os
import sys

if __name__ == "__main__":  # without this folder, in which operator.py would hide the standard library's module
    sys.path.pop(0)
sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

import argparse
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import torch

from benchmarks.common import environment, write_results
from detrex_ops.build_extensions import SOURCES, find_cuda

TITLE = "CUDA kernels on paper: the machine code for 32 channels per head"
KERNEL = re.compile(r"(forward|backward)_kernelINS0_5ShapeI(f|13__nv_bfloat16|6__half)fLi32EEELb(\d)E(?:Lb(\d)E)?E")
DTYPES = {"f": ("float32", 8), "13__nv_bfloat16": ("bfloat16", 4), "6__half": ("float16", 4)}  # name, lanes per query
FORMS = {"0": "plain", "1": "fused"}
SAMPLES = 2  # of a query that the inner loop handles at a time: kInFlight in kernels.cuh
Row = dict[str, object]


def compile_kernels(architecture: str, folder: Path) -> tuple[Path, str]:
    """The binary and the compiler's report on each kernel's resources."""
    found = find_cuda()
    if found is None:
        raise SystemExit("there is no CUDA toolkit: set CUDA_HOME or put nvcc on the path")
    cubin = folder / "kernels.cubin"
    command = [found[0], "-std=c++17", "-O3", f"-arch=sm_{architecture}", "-Xptxas", "-v", "-cubin"]
    source = SOURCES / "cuda/launch.cu"
    result = subprocess.run([*command, source, "-o", cubin], capture_output=True, text=True, check=False)
    if result.returncode:
        raise SystemExit(f"nvcc failed:\n{result.stderr}")
    return cubin, result.stderr


def disassembler() -> str:
    """The path of nvdisasm."""
    found = find_cuda()
    candidates = [found[1] / "bin/nvdisasm"] if found else []
    triton = find_spec("triton")
    if triton is not None and triton.origin is not None:
        candidates.append(Path(triton.origin).parent / "backends/nvidia/bin/nvdisasm")
    path = next((str(path) for path in candidates if path.exists()), None) or shutil.which("nvdisasm")
    if path is None:
        raise SystemExit("there is no nvdisasm: install the CUDA toolkit's, or Triton, which brings one")
    return path


def loops(function: str) -> Iterator[list[str]]:
    """The instructions of each loop of a disassembled function, without their predicates."""
    instructions: list[str] = []
    labels: dict[str, int] = {}
    for line in function.splitlines():
        if label := re.match(r"\s*(\.L\w+):", line):
            labels[label[1]] = len(instructions)
        elif instruction := re.match(r"\s*/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+ )?(.*?);", line):
            instructions.append(instruction[1])
            target = re.match(r"BRA\S*.*`\((\.L\w+)\)", instruction[1])
            if target and target[1] in labels:
                yield instructions[labels[target[1]] :]


def inner_loop(function: str) -> list[str]:
    """The smallest loop that reads the rows at the corners of SAMPLES samples."""
    wanted = [body for body in loops(function) if sum(".128" in i for i in body if i.startswith("LDG")) == 4 * SAMPLES]
    if not wanted:
        raise SystemExit("no loop reads that many rows: has kInFlight changed, or the kernels' structure?")
    return min(wanted, key=len)


def rows_of(cubin: Path, report: str) -> Iterator[Row]:
    """One row for each kernel of 32 channels, the deterministic ones left out."""
    resources = dict(re.findall(r"Compiling entry function '(\w+)'[^\n]*\n(?:[^\n]*\n)*?[^\n]*(Used [^\n]+)", report))
    text = subprocess.run([disassembler(), "-c", cubin], capture_output=True, text=True, check=True).stdout
    for function in re.split(r"\n\s*\.section\s+\.text\.", text)[1:]:
        name = function.split(",")[0]
        match = KERNEL.search(name)
        if match is None or match[4] == "1":
            continue
        body, used = inner_loop(function), resources[name]
        counted = {
            label: sum(i.startswith(prefix) for i in body) / SAMPLES
            for label, prefix in {"loads of rows": "LDG", "multiply-adds": "FFMA", "atomics": "RED"}.items()
        }
        shared = re.search(r"(\d+) bytes smem", used)
        yield {
            "pass": match[1],
            "value": DTYPES[match[2]][0],
            "form": FORMS[match[3]],
            "lanes per query": DTYPES[match[2]][1],
            "registers": int(re.search(r"Used (\d+) registers", used)[1]),
            "shared KiB": int(shared[1]) / 1024 if shared else 0.0,
            "instructions per sample": len(body) / SAMPLES,
            **counted,
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--architecture", default="90", help="sm_<this>")
    architecture = parser.parse_args().architecture
    with tempfile.TemporaryDirectory() as folder:
        rows = list(rows_of(*compile_kernels(architecture, Path(folder))))
    rows.sort(key=lambda row: (row["pass"] == "backward", str(row["value"]), str(row["form"])))
    env = environment(torch.device("cpu")) | {"architecture": f"sm_{architecture}", "cpu": None, "load": None}
    nvcc = subprocess.run([find_cuda()[0], "--version"], capture_output=True, text=True, check=True).stdout
    env["nvcc"] = re.search(r"release ([\d.]+)", nvcc)[1]
    write_results("cuda_machine_code", TITLE, env, rows)


if __name__ == "__main__":
    main()
