"""Imports point down and never in circles: the rules of docs/architecture.md, "Which room may import which"."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# Lowest first. A room may import itself and the rooms of lower lines, not its neighbours on the same line.
ROOMS: tuple[tuple[str, ...], ...] = (
    ("detrex_ops",),
    ("detrex.structures", "detrex.utils"),
    ("detrex.layers",),
    ("detrex.modeling",),
    ("detrex.config",),
    ("detrex.solver",),
    ("detrex.data",),
    ("detrex.checkpoint",),
    ("detrex.distributed", "detrex.compat"),
    ("detrex.inference", "detrex.analysis"),
    ("detrex.export", "detrex.visualization"),
    ("detrex.report",),
    ("detrex.engine",),
    ("detrex.cli",),
    ("detrex",),  # the package itself: its version, and Detector when it is asked for
    ("projects.deformable_detr",),
    ("projects",),
    ("configs",),
    ("tools",),
)
WITHOUT_DETECTRON2 = ("detrex_ops", "detrex.structures", "detrex.utils", "detrex.layers", "detrex.modeling")
EXCEPT = ("detrex.modeling.backbone", "detrex.modeling.neck")
MAY_NAME_PROJECTS = ("detrex.cli", "detrex.compat")
PACKAGES = ("detrex", "detrex_ops", "projects", "configs", "tools")
MAX_FILES_OF_A_FOLDER = 15
MAX_SHARE_OF_A_FOLDER = 0.25


# ----------------------------------------------------------------------------------------------- reading the sources
def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {module_name(path): path for name in PACKAGES for path in sorted((ROOT / name).rglob("*.py"))}


def imported_names(source: str, module: str, *, is_package: bool) -> Iterator[str]:
    """Dotted names that a source imports; ``from a import b`` gives ``a.b``."""
    package = module if is_package else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")
            base = (
                ".".join([*parents[: len(parents) - node.level + 1], node.module or ""]) if node.level else node.module
            )
            yield from (f"{base.rstrip('.')}.{alias.name}" for alias in node.names)


def graph_of(sources: Mapping[str, tuple[str, bool]]) -> dict[str, set[str]]:
    """module -> modules that it imports, of those given as name -> (source, is it a package)."""
    graph = {}
    for module, (source, is_package) in sources.items():
        names = imported_names(source, module, is_package=is_package)
        found = {name if name in sources else name.rpartition(".")[0] for name in names}
        graph[module] = {name for name in found if name in sources and name != module}
    return graph


def circles(graph: Mapping[str, Iterable[str]]) -> list[list[str]]:
    """Strongly connected components of more than one node (Tarjan, 1972)."""
    order: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(node: str) -> None:
        order[node] = low[node] = len(order)
        stack.append(node)
        for target in graph.get(node, ()):
            if target not in order:
                visit(target)
                low[node] = min(low[node], low[target])
            elif target in stack:
                low[node] = min(low[node], order[target])
        if low[node] == order[node]:
            component = stack[stack.index(node) :]
            del stack[stack.index(node) :]
            if len(component) > 1:
                found.append(sorted(component))

    for node in graph:
        if node not in order:
            visit(node)
    return found


def within(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


def room_of(name: str) -> tuple[int, str] | None:
    """Rank and name of the room of a module: the longest that contains it."""
    rooms = [(len(room), rank, room) for rank, rooms in enumerate(ROOMS) for room in rooms if within(name, room)]
    return max(rooms)[1:] if rooms else None


GRAPH = graph_of({name: (path.read_text(encoding="utf-8"), path.name == "__init__.py") for name, path in FILES.items()})


# -------------------------------------------------------------------------------------------------------------- rules
def test_no_circle_between_files():
    assert not circles(GRAPH)


def test_no_circle_between_folders():
    folders: dict[str, set[str]] = {}
    for module, imported in GRAPH.items():
        folder = folder_of(module)
        # A package's __init__ passes on what its folder and the rooms within it define.
        targets = {folder_of(name) for name in imported}
        if FILES[module].name == "__init__.py":
            targets = {target for target in targets if not within(target, folder)}
        folders.setdefault(folder, set()).update(targets - {folder})
    assert not circles(folders)


def folder_of(module: str) -> str:
    return ".".join(FILES[module].relative_to(ROOT).parent.parts)


@pytest.mark.parametrize("module", FILES)
def test_imports_point_down(module):
    rank, room = room_of(module)
    for name in GRAPH[module]:
        target_rank, target = room_of(name)
        assert (target == room or target_rank < rank) or name == "detrex", (
            f"{module} ({room}) imports {name} ({target})"
        )


@pytest.mark.parametrize(
    "module",
    [
        name
        for name in FILES
        if any(within(name, room) for room in WITHOUT_DETECTRON2) and not any(within(name, room) for room in EXCEPT)
    ],
)
def test_the_mathematics_does_not_import_detectron2(module):
    path = FILES[module]
    names = imported_names(path.read_text(encoding="utf-8"), module, is_package=path.name == "__init__.py")
    assert not [name for name in names if within(name, "detectron2")]


def test_the_operator_imports_only_torch():
    allowed = {"torch", "detrex_ops", "triton", "numpy", *sys.stdlib_module_names}
    for module, path in FILES.items():
        if within(module, "detrex_ops") and path.name != "build_extensions.py":  # which only setup.py runs
            names = imported_names(path.read_text(encoding="utf-8"), module, is_package=path.name == "__init__.py")
            assert {name.split(".")[0] for name in names} <= allowed, path


def test_projects_are_named_only_by_commands_and_compat():
    """Nothing below knows which projects there are; not in a string either."""
    for module, path in FILES.items():
        if not within(module, "detrex") or any(within(module, room) for room in MAY_NAME_PROJECTS):
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        documentation = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        named = [
            node.value
            for node in ast.walk(tree)
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documentation
            if re.search(r"\bprojects/\w", node.value)
        ]
        assert not named, f"{path}: {named}"


def test_no_compiled_or_packaged_part_of_one_host_is_imported():
    for module, path in FILES.items():
        for name in imported_names(path.read_text(encoding="utf-8"), module, is_package=path.name == "__init__.py"):
            assert not name.startswith(("detectron2._C", "detectron2.model_zoo", "pkg_resources")), f"{path}: {name}"


def test_no_folder_is_crowded():
    lines: dict[Path, int] = {}
    files: dict[Path, int] = {}
    for module, path in FILES.items():
        if within(module, "detrex"):
            lines[path.parent] = lines.get(path.parent, 0) + len(path.read_text(encoding="utf-8").splitlines())
            files[path.parent] = files.get(path.parent, 0) + 1
    total = sum(lines.values())
    crowded = {str(folder): number for folder, number in files.items() if number > MAX_FILES_OF_A_FOLDER}
    assert not crowded
    assert not {str(folder): n / total for folder, n in lines.items() if n / total > MAX_SHARE_OF_A_FOLDER}


# ------------------------------------------------------------------------------------------- the rules find violations
def test_a_circle_is_found():
    sources = {
        "p": ("from .b import x", True),
        "p.a": ("import p.c", False),
        "p.b": ("def f():\n    from p import a", False),
        "p.c": ("from . import b", False),
    }
    assert circles(graph_of(sources)) == [["p.a", "p.b", "p.c"]]
    assert not circles(graph_of({**sources, "p.c": ("import torch", False)}))


def test_every_file_has_a_room():
    assert not [name for name in FILES if room_of(name) is None]
