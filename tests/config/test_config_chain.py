"""Published configs are edits of a simpler parent: chains are short, and no file changes back what another changed."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from detrex.config import load_config

ROOT = Path(__file__).parents[2]
CONFIGS = sorted(ROOT.glob("projects/*/configs/**/*.py"))
DEPTH = 4  # files from the shared base to a config
Node = tuple[Path, str]  # a file and a name in it

_load = functools.cache(load_config)


def _project_config(call: ast.AST) -> Path | None:
    """The file of ``get_config("projects/...")``."""
    if isinstance(call, ast.Call) and getattr(call.func, "id", None) == "get_config":
        name = call.args[0].value
        return ROOT / name if name.startswith("projects/") else None
    return None


@functools.cache
def parents(path: Path) -> dict[str, Node]:
    """Name in a config file -> the file and name that it is made from, if that is another config of a project."""
    found: dict[str, Node] = {}
    files: dict[str, Path] = {}
    for statement in ast.parse(path.read_text()).body:
        if isinstance(statement, ast.ImportFrom) and statement.level:
            file = path.parents[statement.level - 1].joinpath(*statement.module.split(".")).with_suffix(".py")
            found |= {alias.asname or alias.name: (file, alias.name) for alias in statement.names}
        if not isinstance(statement, ast.Assign):
            continue
        target, value = statement.targets[0], statement.value
        pairs = zip(target.elts, value.elts, strict=True) if isinstance(target, ast.Tuple) else [(target, value)]
        for name, made in pairs:
            file = _project_config(made)
            if not isinstance(name, ast.Name):
                continue
            if file:
                files[name.id] = file
            elif isinstance(made, ast.Attribute) and isinstance(made.value, ast.Name) and made.value.id in files:
                found[name.id] = (files[made.value.id], made.attr)
            elif isinstance(made, ast.Attribute) and _project_config(made.value):
                found[name.id] = (_project_config(made.value), made.attr)
            elif isinstance(made, ast.Call) and ast.unparse(made.func) == "copy.deepcopy":
                found[name.id] = (path, made.args[0].id)
    return found


def depth(path: Path) -> int:
    files = {file for file, _ in parents(path).values()} - {path}
    return 1 + max(map(depth, files), default=0)


def chain(node: Node) -> Iterator[Node]:
    """A section and all that it is made from, nearest first."""
    while node:
        yield node
        node = parents(node[0]).get(node[1])


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, child in value.items():
            yield from leaves(child, f"{path}.{key}")
    else:
        yield path, value


def test_the_chains_are_found():
    """What the tests below read from the files, for configs whose parents are known."""
    folder = ROOT / "projects/h_deformable_detr/configs"
    name = "h_deformable_detr_swin_tiny_two_stage_12ep_decay0p05"
    names = [(file.stem, name) for file, name in chain((folder / f"{name}.py", "model"))]
    assert names == [
        (name, "model"),
        ("h_deformable_detr_swin_tiny_two_stage_12ep", "model"),
        ("h_deformable_detr_r50", "hybrid"),
        ("h_deformable_detr_r50", "tricks"),
        ("h_deformable_detr_r50", "baseline"),
        ("deformable_detr_r50", "two_stage"),
        ("deformable_detr_r50", "with_box_refinement"),
        ("deformable_detr_r50", "model"),
    ]
    assert depth(folder / f"{name}.py") == depth(folder / "custom_small.py") == 4
    assert depth(folder.parents[1] / "deformable_detr/configs/base/deformable_detr_r50.py") == 1


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_chain_is_short(path):
    assert depth(path) <= DEPTH


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_no_file_changes_back_what_another_changed(path):
    for section in parents(path):
        nodes = [node for node in chain((path, section)) if node[1] in _load(node[0])]
        states = [dict(leaves(OmegaConf.to_container(_load(file)[name], resolve=False))) for file, name in nodes]
        for key, value in states[0].items():
            values = [state.get(key, "absent") for state in states]
            changed = next((i for i, other in enumerate(values) if other != value), len(values))
            assert value not in values[changed:], f"{section}{key}: {values[::-1]}"
        for key in set().union(*states[1:]) - states[0].keys():
            target = f"{key.rpartition('.')[0]}._target_"
            if any(state[target] != states[0].get(target) for state in states if key in state and target in state):
                continue  # an argument of another class
            present = [key in state for state in states]
            assert present == sorted(present), f"{section}{key} comes, goes and comes"
