"""Every name that code takes from detectron2 is where it is looked for, and is called as it was."""

from __future__ import annotations

import ast
import importlib
import inspect
from pathlib import Path
from typing import Any

import pytest

from .conftest import LITE, lite_only
from .surface_core import SURFACE as CORE
from .surface_data import SURFACE as DATA


def _find(name: str) -> Any:
    """By import of the longest module, as ``from module import name`` does it."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(["detectron2", *parts[:length]]))
        except ModuleNotFoundError:
            continue
        for part in parts[length:]:
            found = getattr(found, part)
        return found
    raise ImportError(name)


def _signature(found: Any) -> str:
    if inspect.isclass(found):
        if found.__init__ is object.__init__:
            return "()"
        found = found.__init__
    parameters = inspect.signature(found).parameters.values()
    return str(inspect.Signature([p.replace(annotation=p.empty) for p in parameters if p.name != "self"]))


@pytest.mark.parametrize(("name", "signature"), [*CORE.items(), *DATA.items()])
def test_name_and_signature(name: str, signature: str | None) -> None:
    found = _find(name)
    if signature is not None:
        assert _signature(found) == signature


ROOT = Path(__file__).parents[2]
OUR_CODE = sorted(path for name in ("configs", "detrex", "projects", "tools") for path in (ROOT / name).rglob("*.py"))


@pytest.mark.parametrize("path", OUR_CODE, ids=lambda path: str(path.relative_to(ROOT)))
def test_our_code_takes_only_names_of_the_table(path: Path) -> None:
    table = {*CORE, *DATA}
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("detectron2."):
            for alias in node.names:
                name = f"{node.module}.{alias.name}".removeprefix("detectron2.")
                assert name in table or any(known.startswith(f"{name}.") for known in table), name


SUBSET = ROOT / "detectron2_lite" / "src" / "detectron2"
_PARAGRAPHS = (SUBSET / "_left_out.txt").read_text(encoding="utf-8").split("\n\n")[1:]
LEFT_OUT = {module: names.split() for module, _, names in (p.partition(":") for p in _PARAGRAPHS)}


def _names(path: Path) -> set[str]:
    """What a source file defines or imports at its top."""
    names = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)):
            names.add(node.name)
        elif isinstance(node, ast.ImportFrom) and node.level == 1 and node.names[0].name == "*":
            names |= _names(path.with_name(f"{node.module}.py"))
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            names |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, ast.Assign):
            names |= {ast.unparse(target) for target in node.targets}
    return names


MODULES = {
    ".".join(path.relative_to(SUBSET.parent).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(SUBSET.rglob("[!_]*.py")) + sorted(SUBSET.rglob("__init__.py"))
    if "configs" not in path.parts
}


@pytest.mark.skipif(LITE, reason="compares with the full detectron2")
@pytest.mark.parametrize("module", MODULES)
def test_every_class_and_function_is_in_the_subset_or_said_to_be_left_out(module: str) -> None:
    path = MODULES[module]
    prefix = "detectron2." if path.stem == "__init__" else module
    public = {name: value for name, value in vars(importlib.import_module(module)).items() if name[0] != "_"}
    own = {name for name, value in public.items() if str(getattr(value, "__module__", "")).startswith(prefix)}
    assert own - _names(path) - set(LEFT_OUT.get(module, ())) <= {"main", "setup_environment"}


@lite_only("has these names")
@pytest.mark.parametrize("module", LEFT_OUT)
def test_names_left_out_say_so(module: str) -> None:
    for name in LEFT_OUT[module]:
        with pytest.raises(ImportError, match=rf"{name} is not part of this detectron2.*subset.*pip install"):
            exec(f"from {module} import {name}")


@lite_only("has these modules")
def test_modules_left_out_say_so() -> None:
    with pytest.raises(ModuleNotFoundError, match=r"detectron2\.export.*subset"):
        importlib.import_module("detectron2.export")


def test_unknown_attributes_are_ordinary_errors() -> None:
    config = importlib.import_module("detectron2.config")
    assert not hasattr(config, "float32")  # pickle asks this of every module
    with pytest.raises(ImportError, match="cannot import name"):
        exec("from detectron2.config import no_such_name")
