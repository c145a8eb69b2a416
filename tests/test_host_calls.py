"""Calls of detectron2 name their optional arguments but the first: hosts and versions order them differently."""

from __future__ import annotations

import ast
import importlib
import inspect
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted(p for name in ("detrex", "projects", "configs", "tools") for p in (ROOT / name).rglob("*.py"))


def _imported(tree: ast.Module) -> Iterator[tuple[str, Any]]:
    """The local names of a file that come from detectron2, and what they stand for."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and not node.level and (node.module or "").startswith("detectron2"):
            module = importlib.import_module(node.module)
            for alias in node.names:
                value = getattr(module, alias.name, None) or importlib.import_module(f"{node.module}.{alias.name}")
                yield alias.asname or alias.name, value
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.startswith("detectron2") and alias.asname:
                    yield alias.asname, importlib.import_module(alias.name)


def _called(function: ast.expr, names: dict[str, Any]) -> Any:
    """The object that ``name(...)``, ``module.name(...)`` or ``Class.method(...)`` calls, if it is detectron2's."""
    if isinstance(function, ast.Name):
        return names.get(function.id)
    if isinstance(function, ast.Attribute):
        return getattr(_called(function.value, names), function.attr, None)
    return None


def _positions(called: Any) -> int:
    """How many arguments may go by position: the required ones, or the first."""
    parameters = inspect.signature(called).parameters.values()
    if any(p.kind is p.VAR_POSITIONAL for p in parameters):
        return 100
    return max(1, sum(p.default is p.empty for p in parameters))


def _violations(source: str) -> list[str]:
    tree = ast.parse(source)
    names = dict(_imported(tree))
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and callable(called := _called(node.func, names)):
            if len(node.args) > _positions(called):
                found.append(f"line {node.lineno}: {ast.unparse(node)}")
        elif isinstance(node, ast.ClassDef):
            found += _super_calls(node, names)
    return found


def _super_calls(cls: ast.ClassDef, names: dict[str, Any]) -> list[str]:
    bases = [base for base in (_called(expression, names) for expression in cls.bases) if isinstance(base, type)]
    return [
        f"line {node.lineno}: {ast.unparse(node)}"
        for node in ast.walk(cls)
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "super().__init__"
        if any(len(node.args) > _positions(base) for base in bases)
    ]


@pytest.mark.parametrize("path", FILES, ids=lambda path: os.fspath(path.relative_to(ROOT)))
def test_optional_arguments_are_named(path: Path) -> None:
    assert not _violations(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    "call",
    [
        "from detectron2.evaluation import COCOEvaluator\nCOCOEvaluator('data', ('bbox',))",
        "import detectron2.data.transforms as T\nT.ResizeShortestEdge(800, 1333)",
        "from detectron2.engine import hooks\nhooks.PeriodicWriter([], 20)",
        "from detectron2.engine import SimpleTrainer\nclass A(SimpleTrainer):\n"
        "    def __init__(self):\n        super().__init__(1, 2, 3, 4)",
    ],
)
def test_optional_arguments_by_position_are_found(call: str) -> None:
    assert len(_violations(call)) == 1
