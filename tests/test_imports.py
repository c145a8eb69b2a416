"""Imports point down: docs/architecture.md, "Who may import whom"."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# Lowest first: a layer may import itself and everything below it.
LAYERS: tuple[tuple[str, ...], ...] = (
    ("detrex_ops",),
    ("detrex.utils",),
    ("detrex.structures",),
    ("detrex.layers",),
    ("detrex.modeling",),
    ("detrex.config", "detrex.solver"),
    ("detrex.data", "detrex.checkpoint", "detrex.compat"),
    ("detrex.distributed",),
    ("detrex.inference", "detrex.analysis"),
    ("detrex.export", "detrex.visualization", "detrex.report"),
    ("detrex.engine",),
    ("detrex.cli",),
    ("projects.deformable_detr",),
    ("projects.h_deformable_detr", "projects.dab_deformable_detr"),
    ("configs",),
    ("tools",),
)
# The package itself and reading config files are harmless for everyone above the mathematics.
ANYWHERE_ABOVE_MODELING = ("detrex", "detrex.config", "detrex.config.validation")
WITHOUT_DETECTRON2 = ("detrex_ops", "detrex.utils", "detrex.structures", "detrex.layers", "detrex.modeling")
DETECTRON2_ALLOWED_WITHIN = ("detrex.modeling.backbone", "detrex.modeling.neck")
OURS = ("detrex", "detrex_ops", "projects", "configs", "tools")


def _within(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


def _rank(name: str) -> int | None:
    ranks = [i for i, packages in enumerate(LAYERS) if any(_within(name, p) for p in packages)]
    return ranks[0] if ranks else None


def _module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _imports(path: Path) -> set[str]:
    module = _module_name(path)
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    found = set()
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parent = ".".join(package.split(".")[: len(package.split(".")) - node.level + 1])
                base = f"{parent}.{base}".rstrip(".")
            found |= {f"{base}.{alias.name}" for alias in node.names}
    return found


FILES = sorted(
    path for name in OURS for path in (ROOT / name).rglob("*.py") if "configs" not in path.parts or name == "configs"
)


@pytest.mark.parametrize("path", FILES, ids=_module_name)
def test_imports_point_down(path):
    module = _module_name(path)
    rank = _rank(module)
    for imported in _imports(path):
        target = _rank(imported)
        if target is None or rank is None:
            continue
        if rank > LAYERS.index(("detrex.modeling",)) and any(
            _within(imported, name) for name in ANYWHERE_ABOVE_MODELING if name != "detrex"
        ):
            continue
        assert target <= rank, f"{module} imports {imported}, which is above it"


@pytest.mark.parametrize("path", FILES, ids=_module_name)
def test_the_mathematics_knows_no_detectron2(path):
    module = _module_name(path)
    if not any(_within(module, name) for name in WITHOUT_DETECTRON2):
        return
    if any(_within(module, name) for name in DETECTRON2_ALLOWED_WITHIN):
        return
    assert not [name for name in _imports(path) if _within(name, "detectron2")]


def test_the_operator_imports_torch_alone():
    allowed = {"torch", "detrex_ops", "__future__", "triton", "numpy"}
    standard = set(sys.stdlib_module_names)
    for path in (ROOT / "detrex_ops").rglob("*.py"):
        if path.name == "build_extensions.py":  # runs in setup.py alone
            continue
        roots = {name.split(".")[0] for name in _imports(path)}
        assert roots <= allowed | standard, f"{path}: {roots - allowed - standard}"


def test_forbidden_names_of_the_host_appear_nowhere():
    """Compiled and packaged parts that one of the hosts lacks."""
    for path in FILES:
        for name in _imports(path):
            assert not name.startswith(("detectron2._C", "detectron2.model_zoo", "pkg_resources")), f"{path}: {name}"
