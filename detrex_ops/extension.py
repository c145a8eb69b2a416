"""The compiled extensions: plain libraries that register torch operators when they are loaded."""

from __future__ import annotations

import functools
import warnings
from pathlib import Path

import torch

REPORT = Path(__file__).with_name("_build_report.txt")


@functools.cache
def load_extension(name: str) -> bool:
    """Load ``_cpu`` or ``_cuda`` from the package's folder. False where there is none for this torch."""
    files = sorted(Path(__file__).parent.glob(f"_{name}*.so"))
    if not files:
        return False
    try:
        torch.ops.load_library(str(files[0]))
    except OSError as error:
        warnings.warn(
            f"{files[0].name} was built for another torch than {torch.__version__} and is not used: {error}. "
            "Build it again: pip install --no-build-isolation --force-reinstall --no-deps detrex, or -e . in a clone.",
            RuntimeWarning,
            stacklevel=2,
        )
        return False
    return True


def build_report() -> str:
    """What the installation built and why not more, one line for each extension."""
    return REPORT.read_text().strip() if REPORT.exists() else "the extensions were never built: pip install -e ."
