"""An original config as a file of ours: edits of the nearest config that is here."""

from __future__ import annotations

import inspect
import sys
import textwrap
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

from detectron2.layers import ShapeSpec
from detectron2.utils.registry import locate
from omegaconf import DictConfig, ListConfig, OmegaConf

from detrex.config import find_config, get_config
from detrex.config.tree import child_of, parameters_of

__all__ = ["edits", "migrate"]

SECTIONS = ("dataloader", "lr_multiplier", "model", "optimizer", "train")
_WIDTH = 110
_ABSENT = inspect.Parameter.empty


def migrate(cfg: DictConfig) -> str:
    """A rewritten config as a Python file that loads as the same.

    Args:
        cfg: of :func:`detrex.compat.original.load_original_config`.
    """
    projects = find_config("projects/deformable_detr/configs/deformable_detr_r50_50ep.py").parents[2]
    bases = sorted(str(Path("projects") / path.relative_to(projects)) for path in projects.glob("*/configs/*.py"))
    candidates = []
    for base in bases:
        imports = {("detrex.config", "get_config")}
        candidates.append((list(edits(get_config(base), cfg, imports)), imports, base))
    lines, imports, base = min(candidates, key=lambda candidate: sum(map(len, candidate[0])))
    source, notes = cfg.rewritten.source, cfg.rewritten.notes
    title = f'"""From {Path(source).name} of the original detrex.'
    lines_of_notes = [textwrap.fill(f"- {note}", 120, subsequent_indent="  ", break_long_words=False) for note in notes]
    docstring = [title, "", *lines_of_notes, '"""'] if notes else [f'{title}"""']
    modules: dict[str, list[str]] = {}
    for module, name in sorted(imports):
        modules.setdefault(module, []).append(name)
    header = [f"from {module} import {', '.join(names)}" for module, names in modules.items()]
    unpacked = [f'_base = get_config("{base}")', *(f"{name} = _base.{name}" for name in SECTIONS)]
    return "\n".join([*docstring, "", *header, "", *unpacked, "", *lines]).rstrip() + "\n"


def edits(base: DictConfig, new: DictConfig, imports: set[tuple[str, str]], path: str = "") -> Iterator[str]:
    """Statements that turn one config into another.

    Args:
        base, new: the configs. path: where they are, as a prefix of the statements.
        imports: gets (module, name) of what the statements need.
    """
    parameters = parameters_of(new) or {}
    defaults = {name: parameter.default for name, parameter in parameters.items()}
    for key in dict.fromkeys([*base, *new]):
        if not path and key == "rewritten":
            continue
        old, value = (child_of(c, key) if key in c.keys() else defaults.get(key, _ABSENT) for c in (base, new))
        name = f"{path}.{key}" if path else str(key)
        if value is _ABSENT:
            yield f"del {name}"
        elif _is_section(old) and _is_section(value) and old.get("_target_") == value.get("_target_"):
            yield from edits(old, value, imports, name)
        elif old is _ABSENT or old != value:
            yield f"{name} = {_render(value, imports)}"


def _is_section(value: Any) -> bool:
    return isinstance(value, DictConfig) and OmegaConf.get_type(value) is dict


def _render(value: Any, imports: set[tuple[str, str]], indent: int = 0) -> str:
    """A value of a config as Python."""
    if isinstance(value, (type, *_FUNCTIONS)):
        return _import(value, imports)
    if not isinstance(value, (DictConfig, ListConfig)):
        return f'"{value}"' if isinstance(value, str) and not set(value) & set('"\\\n') else repr(value)
    if isinstance(value, ListConfig):
        return _bracket("[", [("", child_of(value, i)) for i in range(len(value))], "]", imports, indent)
    items = [(key, child_of(value, key)) for key in value]
    if OmegaConf.get_type(value) is ShapeSpec:
        given = [(f"{key}=", item) for key, item in items if item is not None]
        return _bracket(f"{_import(ShapeSpec, imports)}(", given, ")", imports, indent)
    if "_target_" not in value.keys():
        return _bracket("{", [(f"{key!r}: ", item) for key, item in items], "}", imports, indent)
    imports.add(("detectron2.config", "LazyCall as L"))
    arguments = [(f"{key}=", item) for key, item in items if key != "_target_"]
    return _bracket(f"L({_import(value._target_, imports)})(", arguments, ")", imports, indent)


_FUNCTIONS = (type(lambda: None), type(len), type(dict.fromkeys))


def _bracket(left: str, items: list[tuple[str, Any]], right: str, imports: set[tuple[str, str]], indent: int) -> str:
    """Items in brackets, on one line or one a line."""
    inner = indent + 4
    parts = [f"{prefix}{_render(item, imports, inner)}" for prefix, item in items]
    flat = f"{left}{', '.join(parts)}{right}"
    if len(flat) + indent <= _WIDTH and "\n" not in flat:
        return flat
    return "\n".join([left, *(f"{' ' * inner}{part}," for part in parts), " " * indent + right])


def _import(target: Any, imports: set[tuple[str, str]]) -> str:
    """The name of a class or function, imported from the outermost package that has it."""
    target = locate(target) if isinstance(target, str) else target  # dataclasses are noted by name
    outer, _, _ = target.__qualname__.partition(".")
    parts = target.__module__.split(".")
    modules = [".".join(parts[:n]) for n in range(2, len(parts) + 1)] or parts
    owner = getattr(sys.modules[target.__module__], outer)
    imports.add((next(m for m in modules if getattr(import_module(m), outer, None) is owner), outer))
    return target.__qualname__
