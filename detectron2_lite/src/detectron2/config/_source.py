"""Configs rendered as Python, for people to read and compare."""

import ast
from collections.abc import Mapping
from typing import Any

from detectron2.utils.registry import _convert_target_to_string
from omegaconf import OmegaConf


def to_source(cfg: Any, prefix: str) -> str:
    """One assignment per leaf, keys sorted, calls as calls; in black's style where black is installed."""
    lines = _assignments(prefix.rstrip("."), OmegaConf.to_container(cfg, resolve=True))
    return _formatted("\n".join(lines))


def _assignments(path: str, value: Any) -> list[str]:
    if isinstance(value, Mapping) and "_target_" not in value:
        inner = ((f"{path}.{key}" if path else str(key), value[key]) for key in sorted(value, key=str))
        return [line for key, item in inner for line in _assignments(key, item)]
    return [f"{path} = {_expression(value)}"]


def _expression(value: Any) -> str:
    if isinstance(value, Mapping) and "_target_" in value:
        target = value["_target_"]
        name = target if isinstance(target, str) else _convert_target_to_string(target)
        arguments = (f"{key}={_expression(value[key])}" for key in sorted(value) if key != "_target_")
        return f"{name}({', '.join(arguments)})"
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{key!r}: {_expression(value[key])}' for key in sorted(value, key=str))}}}"
    if isinstance(value, list):
        return f"[{', '.join(map(_expression, value))}]"
    return repr(value)


def _formatted(source: str) -> str:
    try:
        ast.parse(source)
    except SyntaxError:  # a repr such as <function f at 0x...>: readable, but not Python
        return source
    try:
        import black
    except ImportError:
        return ast.unparse(ast.parse(source)) + "\n"
    return black.format_str(source, mode=black.Mode())
