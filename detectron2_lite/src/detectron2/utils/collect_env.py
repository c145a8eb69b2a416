"""The software and hardware in use, as a table for logs and reports: ``python -m detectron2.utils.collect_env``."""

import importlib.metadata
import os
import platform
import sys
from collections import defaultdict

import torch
from tabulate import tabulate

_PACKAGES = ("numpy", "torchvision", "Pillow", "fvcore", "iopath", "omegaconf", "hydra-core", "pycocotools", "timm")


def collect_env_info() -> str:
    """Return the table, followed by torch's build configuration."""
    import detectron2

    rows: list[tuple[str, object]] = [
        ("sys.platform", sys.platform),
        ("Python", sys.version.replace("\n", "")),
        ("machine", f"{platform.machine()}, {os.cpu_count()} CPUs"),
        ("detectron2", f"{detectron2.__version__} @{os.path.dirname(detectron2.__file__)}"),
        ("PyTorch", f"{torch.__version__} @{os.path.dirname(torch.__file__)}"),
        ("PyTorch debug build", torch.version.debug),
        *_devices(),
        *((package, _version(package)) for package in _PACKAGES),
    ]
    return f"{tabulate(rows)}\n{torch.__config__.show()}"


def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "not found"


def _devices() -> list[tuple[str, object]]:
    if not torch.cuda.is_available():
        return [("GPU available", "No: torch.cuda.is_available() == False")]
    indices = defaultdict(list)
    for index in range(torch.cuda.device_count()):
        major, minor = torch.cuda.get_device_capability(index)
        indices[f"{torch.cuda.get_device_name(index)} (arch={major}.{minor})"].append(str(index))
    return [
        ("GPU available", "Yes"),
        *(("GPU " + ",".join(found), name) for name, found in indices.items()),
        ("CUDA runtime of PyTorch", torch.version.cuda or f"ROCm {torch.version.hip}"),
        ("cuDNN", torch.backends.cudnn.version()),
        ("TORCH_CUDA_ARCH_LIST", os.environ.get("TORCH_CUDA_ARCH_LIST", "<not set>")),
    ]


if __name__ == "__main__":
    print(collect_env_info())
