"""``detrex doctor``: what is installed and what runs where, with advice for each problem."""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import os
import platform
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from detrex.utils.text import count_of

__all__ = ["Finding", "build_parser", "examine", "main"]

PYTHON_VERSIONS = ((3, 10), (3, 13))
OLDEST_TORCH = (2, 6)
SHARED_MEMORY = Path("/dev/shm")
GIB = 2**30


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Attributes:
        level: "ok"; "note" for what limits only some uses; "problem" for what does not work.
        subject: what was looked at.
        text: what was found.
        advice: what to do; "" where nothing is to be done.
    """

    level: Literal["ok", "note", "problem"]
    subject: str
    text: str
    advice: str = ""

    def __str__(self) -> str:
        line = f"{self.level:8}{self.subject:12}{self.text}"
        return f"{line}\n{'':20}-> {self.advice}" if self.advice else line


def examine() -> list[Finding]:
    """Make every check; one that fails by itself is a problem, not an exception."""
    findings: list[Finding] = []
    for check in CHECKS:
        try:
            findings.extend(check())
        except Exception as error:
            advice = "see the message; a broken installation is best made anew in a fresh virtual environment"
            findings.append(Finding("problem", check.__name__, f"{type(error).__name__}: {error}", advice))
    return findings


def python() -> Iterator[Finding]:
    """The interpreter."""
    oldest, newest = PYTHON_VERSIONS
    text = f"{platform.python_version()}, {platform.system()} {platform.machine()}"
    if oldest <= sys.version_info[:2] <= newest:
        yield Finding("ok", "Python", text)
    else:
        advice = f"use Python {'.'.join(map(str, oldest))} to {'.'.join(map(str, newest))}"
        yield Finding("problem", "Python", text, advice)


def packages() -> Iterator[Finding]:
    """torch, torchvision, numpy and this project."""
    import torch

    version = tuple(int(part) for part in torch.__version__.split(".")[:2])
    old = "" if version >= OLDEST_TORCH else f"install torch >= {'.'.join(map(str, OLDEST_TORCH))}"
    built = f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPU only"
    yield Finding("problem" if old else "ok", "torch", f"{torch.__version__} ({built})", old)
    try:
        torchvision = importlib.import_module("torchvision")
        torchvision.ops.nms(torch.zeros(1, 4), torch.zeros(1), 0.5)
        yield Finding("ok", "torchvision", torchvision.__version__)
    except (ImportError, RuntimeError, AttributeError) as error:
        advice = "install torch and torchvision together, from the same index: their versions belong together"
        yield Finding("problem", "torchvision", str(error), advice)
    yield Finding("ok", "numpy", importlib.metadata.version("numpy"))
    import detrex

    installed = not detrex.__version__.startswith("0+")
    place = f"{detrex.__version__} at {Path(detrex.__file__).parent}"
    advice = "" if installed else "runs from the source tree; pip install it for the compiled operator"
    yield Finding("ok" if installed else "note", "detrex", place, advice)


def host() -> Iterator[Finding]:
    """Which detectron2 there is."""
    from detrex.engine.run_config import describe_host

    try:
        yield Finding("ok", "host", describe_host())
    except ValueError as error:
        yield Finding("problem", "host", str(error), "pip install ./detectron2_lite, or upstream's source")


def operator() -> Iterator[Finding]:
    """The kernel of each device, compared with its definition."""
    import torch

    import detrex_ops

    forced = os.environ.get("DETREX_OPS")
    if forced:
        yield Finding("note", "operator", f"DETREX_OPS={forced} forces the choice", "unset it for the fastest kernel")
    devices = ["cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]
    for device in devices:
        try:
            name = detrex_ops.backend(device)
        except (RuntimeError, ValueError) as error:
            yield Finding("problem", "operator", f"{device}: {error}", "DETREX_OPS=reference works meanwhile")
            continue
        if name == "reference":
            reason = detrex_ops.build_report().strip().replace("\n", f"\n{'':20}")
            advice = f"slow: no compiled kernel here. Its build said:\n{'':20}{reason}"
            yield Finding("note", "operator", f"{device}: plain PyTorch", advice)
        else:
            yield Finding("ok", "operator", f"{device}: {name} kernel, agrees with its definition")
    for line in detrex_ops.build_report().splitlines():
        if line.startswith("cuda: not built"):
            yield Finding("note" if len(devices) > 1 else "ok", "operator", line)


def devices() -> Iterator[Finding]:
    """GPUs and cores."""
    import torch

    threads = f"{os.cpu_count()} cores, PyTorch uses {torch.get_num_threads()}"
    yield Finding("ok", "CPU", threads)
    if not torch.cuda.is_available():
        if shutil.which("nvidia-smi") is None:
            yield Finding("ok", "GPU", "none")
        elif torch.version.cuda is None:
            advice = "install a CUDA build of torch and torchvision"
            yield Finding("problem", "GPU", "there is a driver, but this torch is for CPUs only", advice)
        else:
            advice = f"the driver may be too old for CUDA {torch.version.cuda}; compare with nvidia-smi"
            yield Finding("note", "GPU", "nvidia-smi is there, but PyTorch sees no GPU", advice)
        return
    for index in range(torch.cuda.device_count()):
        major, minor = torch.cuda.get_device_capability(index)
        free, total = torch.cuda.mem_get_info(index)
        memory = f"{free / GIB:.1f} of {total / GIB:.1f} GiB free"
        yield Finding("ok", "GPU", f"cuda:{index} {torch.cuda.get_device_name(index)} (sm_{major}{minor}), {memory}")


def data() -> Iterator[Finding]:
    """COCO below $DETECTRON2_DATASETS."""
    root = Path(os.path.expanduser(os.environ.get("DETECTRON2_DATASETS", "datasets"))) / "coco"
    wanted = [f"annotations/instances_{split}2017.json" for split in ("train", "val")] + ["train2017", "val2017"]
    absent = [name for name in wanted if not (root / name).exists()]
    if not absent:
        yield Finding("ok", "COCO", str(root))
    else:
        advice = "set DETECTRON2_DATASETS to the folder that holds coco/; data of your own do not need it"
        yield Finding("note", "COCO", f"{root} lacks {', '.join(absent)}", advice)


def space() -> Iterator[Finding]:
    """Disk and shared memory."""
    free = shutil.disk_usage(".").free / GIB
    advice = "" if free > 5 else "a run keeps several checkpoints; make room or set train.output_dir"
    yield Finding("note" if advice else "ok", "disk", f"{free:.1f} GiB free here", advice)
    if SHARED_MEMORY.is_dir():
        shared = shutil.disk_usage(SHARED_MEMORY).free / GIB
        advice = "" if shared >= 1 else "workers may die: docker run --shm-size=8g, or dataloader.train.num_workers=0"
        yield Finding("note" if advice else "ok", "/dev/shm", f"{shared:.1f} GiB free", advice)


CHECKS: tuple[Callable[[], Iterator[Finding]], ...] = (python, packages, host, operator, devices, data, space)


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    return argparse.ArgumentParser(
        prog="detrex doctor",
        description="Print what is installed and which kernel runs on each device, with advice for each problem.",
        epilog="example: detrex doctor. Exit status: 0, or 1 if there is a problem.",
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Print the report; returns the exit status."""
    build_parser().parse_args(argv)
    findings = examine()
    print(*findings, sep="\n")
    problems = sum(finding.level == "problem" for finding in findings)
    print(f"\n{count_of(problems, 'problem')}" if problems else "\nno problems")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
