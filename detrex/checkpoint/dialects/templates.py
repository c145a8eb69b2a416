"""Templates of names.

``{i}``, ``{j}``, ``{k}`` stand for a number, ``{p}`` for ``weight`` or ``bias``, ``{s}`` for those or a statistic of
BatchNorm, ``{rest}`` for anything. A number may be shifted, ``{i+1}`` or ``{i-inputs}``, where the result is not
negative. Any other field is a constant of the file: ``class_embed.{layers}.{p}`` is after as many decoder layers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache

__all__ = ["compile_template", "fill"]

NUMBERS = ("i", "j", "k")
PATTERNS = {
    "p": "weight|bias",
    "s": "weight|bias|running_mean|running_var",
    "rest": ".+",
    **dict.fromkeys(NUMBERS, r"\d+"),
}
FIELD = re.compile(r"\{(\w+)(?:([+-])(\w+))?\}")


def _shift(sign: str, amount: str, constants: Mapping[str, int]) -> int:
    value = int(amount) if amount.isdigit() else constants[amount]
    return value if sign == "+" else -value


def fill(template: str, values: Mapping[str, str], constants: Mapping[str, int]) -> str | None:
    """Fill a template; None if a shifted number is negative."""
    pieces, end = [], 0
    for match in FIELD.finditer(template):
        field, op, amount = match.groups()
        value = values[field] if field in values else str(constants[field])
        if op:
            value = str(int(value) + _shift(op, amount, constants))
        if value.startswith("-"):
            return None
        pieces += [template[end : match.start()], value]
        end = match.end()
    return "".join([*pieces, template[end:]])


@cache
def compile_template(template: str, constants: tuple[tuple[str, int], ...]) -> tuple[re.Pattern[str], dict[str, int]]:
    """A regular expression for the template's names, with a group for each field, and the fields that are shifted."""
    known, pieces, seen, shifts, end = dict(constants), [], set(), {}, 0
    for match in FIELD.finditer(template):
        field, op, amount = match.groups()
        pieces.append(re.escape(template[end : match.start()]))
        end = match.end()
        if field not in PATTERNS:
            pieces.append(str(known[field]))
        elif field in seen:
            pieces.append(f"(?P={field})")
        else:
            seen.add(field)
            pieces.append(f"(?P<{field}>{PATTERNS[field]})")
        if op:
            shifts[field] = _shift(op, amount, known)
    return re.compile("".join([*pieces, re.escape(template[end:])])), shifts
