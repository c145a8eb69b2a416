"""Refuses to be built over another detectron2 without being told to; everything else is in pyproject.toml.

Both are one distribution under one name, so that an installer would remove the other without a word.
"""

from __future__ import annotations

import os
import sys
import sysconfig
from importlib.metadata import distributions

from setuptools import setup


def other_detectron2() -> str | None:
    """The version and place of a detectron2 that is not this one, where it will be installed."""
    folders = [sysconfig.get_path("purelib"), sysconfig.get_path("platlib"), *sys.path]
    for found in distributions(name="detectron2", path=folders):
        if "+lite" not in found.version:
            return f"{found.version} in {found.locate_file('')}"
    return None


if __name__ == "__main__":
    other = other_detectron2()
    if other is not None and os.environ.get("DETECTRON2_LITE_REPLACE", "0") in ("", "0"):
        sys.exit(
            f"error: detectron2 {other} would be replaced by detectron2_lite. detrex runs on it: leave "
            "./detectron2_lite out of the command. To replace it, run `pip uninstall detectron2` first, "
            "or set DETECTRON2_LITE_REPLACE=1."
        )
    setup()
