"""Builds the operator's extensions: ``_cpu`` where there is a C++ compiler, ``_cuda`` where there is a CUDA toolkit.

Everything else about the distribution is in pyproject.toml. Environment variables:

    DETREX_OPS_BUILD     auto (default): the CPU part, and the CUDA part where there is a GPU. A failure to compile does
                         not fail the installation. cpu, cuda: that part (cuda: both) has to be built, or it does.
                         off: nothing.
    FORCE_CUDA=1         the same as DETREX_OPS_BUILD=cuda
    DETREX_OPS_CUDA_ARCH "8.0;9.0" or "all": compile the CUDA part for these architectures, with or without a GPU.
                         Default: those of this machine's GPUs; without one, all, 7.5 to 12.0
    CUDA_HOME, CXX       where the automatic choice is not the right one; CXX="ccache g++" uses ccache
    CXXFLAGS, LDFLAGS    added to ours for the CPU part
    MAX_JOBS             compilations at a time (default: the number of cores)
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
