"""Builds the operator's extensions: ``_cpu`` where there is a C++ compiler, ``_cuda`` where there is a CUDA toolkit.

Everything else about the distribution is in pyproject.toml. Environment variables:

    DETREX_OPS_BUILD     auto (default): what can be built, and a failure to compile does not fail the installation.
                         cpu, cuda: that part (cuda: both) has to be built, or the installation fails. off: nothing.
    DETREX_OPS_CUDA_ARCH "8.0;9.0": the architectures to compile for; default: all that the toolkit knows, 7.5 to 12.0
    CUDA_HOME, CXX       where the automatic choice is not the right one
    CXXFLAGS, LDFLAGS    added to ours for the CPU part
"""

from __future__ import annotations

import sys
from pathlib import Path

from setuptools import find_namespace_packages, setup

sys.path.insert(0, str(Path(__file__).parent / "detrex_ops"))
import build_extensions

# Config files are not packages, but travel with them: configs/ as detrex/configs, projects/*/configs in their place.
PACKAGES = find_namespace_packages(
    include=["detrex", "detrex.*", "detrex_ops", "detrex_ops.*", "projects", "projects.*"]
)
CONFIGS = ["detrex.configs", *(f"detrex.configs.{name}" for name in find_namespace_packages("configs"))]

setup(
    packages=[name for name in PACKAGES if not name.startswith("detrex_ops.csrc")] + CONFIGS,
    package_dir={"detrex.configs": "configs"},
    ext_modules=build_extensions.extensions(),
    cmdclass={"build_ext": build_extensions.BuildExtensions},
    options={"bdist_wheel": {"py_limited_api": "cp310"}} if build_extensions.wanted() != "off" else {},
    # Asked for only where pip builds in isolation and the environment has no torch yet to take headers from.
    setup_requires=[] if build_extensions.wanted() == "off" or build_extensions.find_torch() else ["torch>=2.6"],
)
