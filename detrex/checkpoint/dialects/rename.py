"""The engine behind the dialects: tables of rows that rename a file's tensors to our names.

The way back is :mod:`detrex.checkpoint.dialects.export`.

A row pairs two templates of names, see :mod:`detrex.checkpoint.dialects.templates`. The first row that matches a name
decides.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from .coco_classes import NUM_IDS, NUM_USED, select_rows
from .errors import CheckpointError, listing
from .templates import compile_template, fill

__all__ = ["Dialect", "Row", "Translation", "count", "to_ours"]


@dataclass(frozen=True)
class Row:
    """One line of a rename table.

    Attributes:
        foreign: template of the name in the dialect.
        ours: template of our name; None drops the tensor.
        part: (index, count): the tensor is this one of ``count`` equal parts of ours along axis 0.
        classes: what becomes of 91 class rows where the model has 80: ``"gather"`` takes the 80 that COCO uses;
            ``"slice"`` the first 80, for a head whose row 0 is objectness and whose others are unused.
        alias: the name repeats a tensor that another row renames to the same; both must be equal. The value says which
            models' files hold it: those with box ``"refinement"``, or ``"two_stage"`` ones.
        beside: the row applies only to files that also hold a tensor of this name.
    """

    foreign: str
    ours: str | None
    part: tuple[int, int] | None = None
    classes: Literal["gather", "slice"] | None = None
    alias: Literal["refinement", "two_stage"] | None = None
    beside: str | None = None


@dataclass(frozen=True)
class Dialect:
    """How one code base names the parameters of these models.

    Attributes:
        name: for people.
        signature: templates of names; a file is in this dialect if it has them all.
        rows: the rename table.
        constants: state dict -> the constants that the templates use.
        shared: our templates with ``{i}`` from 0 to ``layers - 1``; where a file has only the first, as it may if the
            layers share a module, the others are equal to it.
        unbiased: our templates of weights to which our model adds a bias and the dialect does not: it is zero.
        fresh: regular expressions of our names that such files lack by nature, and that start at their initial value.
    """

    name: str
    signature: tuple[str, ...]
    rows: tuple[Row, ...]
    constants: Callable[[Mapping[str, Tensor]], dict[str, int]] = field(default=lambda state: {})
    shared: tuple[str, ...] = ()
    unbiased: tuple[str, ...] = ()
    fresh: tuple[str, ...] = ()

    def matches(self, state: Mapping[str, Tensor]) -> bool:
        """Whether the names are of this dialect."""
        return all(count(state, template) for template in self.signature)


@dataclass(frozen=True)
class Translation:
    """A state dict under other names, and what was done to it.

    Attributes:
        state: the tensors by their new names.
        source: for each new name, the old ones that it was made from.
        dropped: old names that have no counterpart.
        aliases: foreign names that repeat another tensor.
        classes: new names of classifiers of which rows were taken or to which rows were added, and how.
        added: new names that the file implies, and why: heads that layers share, biases of zero.
        unknown: old names that no row matches.
    """

    state: dict[str, Tensor]
    source: dict[str, tuple[str, ...]]
    dropped: tuple[str, ...]
    aliases: tuple[str, ...]
    classes: dict[str, str]
    added: dict[str, str]
    unknown: tuple[str, ...] = ()

    def describe(self, limit: int = 8) -> str:
        """A few lines for people."""
        lines = [f"{len(self.source)} tensors renamed"]
        for title, names in (
            ("repeat another", self.aliases),
            ("have no counterpart and were dropped", self.dropped),
            ("have no rule and were left out", self.unknown),
            ("implied by the file", {name: f"({why})" for name, why in self.added.items()}),
            ("with other class rows", {name: f"({how})" for name, how in self.classes.items()}),
        ):
            if names:
                lines.append(f"{len(names)} {title}: {listing(names, limit)}")
        return "\n  ".join(lines)


def count(state: Mapping[str, Tensor], template: str, *, kernel_size: int | None = None) -> int:
    """How many names match a template, among convolutions of one kernel size if that is given."""
    pattern, _ = compile_template(template, ())
    return sum(
        pattern.fullmatch(name) is not None and (kernel_size is None or value.shape[-1] == kernel_size)
        for name, value in state.items()
    )


def to_ours(
    dialect: Dialect, state: Mapping[str, Tensor], *, num_classes: int | None = None, strict: bool = True
) -> Translation:
    """Rename a file's tensors to our names.

    Args:
        dialect: of the file.
        state: the file's tensors.
        num_classes: K of the model; 80 turns the official 91 class rows into COCO's 80.
        strict: whether a name that no row matches is an error; otherwise it is left out.

    Raises:
        CheckpointError: a name that no row matches if ``strict``, two tensors for one of our names, an alias that
            differs from its original, or a tensor of which a part is missing.
    """
    constants = dialect.constants(state)
    parts: dict[str, dict[int, Tensor]] = {}
    rows: dict[str, Row] = {}
    source: dict[str, list[str]] = {}
    dropped, aliases, unknown = [], [], []
    # Originals first, so that an alias meets the tensor that it repeats.
    applicable = [row for row in dialect.rows if row.beside is None or row.beside in state]
    matched = [(name, value, *_match(applicable, name, constants)) for name, value in state.items()]
    for name, value, row, ours in sorted(matched, key=lambda m: m[2] is not None and m[2].alias is not None):
        if row is None:
            unknown.append(name)
        elif ours is None:
            dropped.append(name)
        else:
            index = row.part[0] if row.part else 0
            present = parts.setdefault(ours, {})
            if index not in present:
                present[index], rows[ours] = value, row
                source.setdefault(ours, []).append(name)
            elif not row.alias:
                raise CheckpointError(f"{dialect.name}: both {source[ours][-1]} and {name} are {ours}")
            elif torch.equal(present[index], value):
                aliases.append(name)
            else:
                raise CheckpointError(f"{dialect.name}: {name} should repeat {source[ours][-1]}, but differs from it")
    if unknown and strict:
        raise CheckpointError(
            f"{dialect.name}: no rule for {len(unknown)} tensors: {listing(unknown)}. They belong to no model of this "
            "project; train.checkpoint.strict=false (detrex convert: --drop-unknown) leaves them out"
        )
    renamed, classes = {}, {}
    for ours, present in parts.items():
        row = rows[ours]
        renamed[ours] = _join(dialect, ours, row, present)
        if row.classes and num_classes == NUM_USED and len(renamed[ours]) == NUM_IDS:
            renamed[ours] = select_rows(renamed[ours], row.classes)
            classes[ours] = f"{row.classes} {NUM_USED} of {NUM_IDS}"
    added = _implied(dialect, renamed, constants)
    return Translation(
        state=renamed | {name: value for name, (value, _) in added.items()},
        source={name: tuple(names) for name, names in source.items()},
        dropped=tuple(dropped),
        aliases=tuple(aliases),
        classes=classes,
        added={name: why for name, (_, why) in added.items()},
        unknown=tuple(unknown),
    )


def _implied(
    dialect: Dialect, state: Mapping[str, Tensor], constants: Mapping[str, int]
) -> dict[str, tuple[Tensor, str]]:
    """Tensors that the file implies without listing them, and why."""
    added = {}
    for name, value in state.items():
        for template in dialect.shared:
            found = compile_template(template, ())[0].fullmatch(name)
            if found and found["i"] == "0":
                for i in range(1, constants["layers"]):
                    added[fill(template, found.groupdict() | {"i": str(i)}, constants)] = (value, f"shared: {name}")
        if any(compile_template(template, ())[0].fullmatch(name) for template in dialect.unbiased):
            added[f"{name.removesuffix('weight')}bias"] = (value.new_zeros(len(value)), "zero")
    return {name: made for name, made in added.items() if name not in state}


def _join(dialect: Dialect, ours: str, row: Row, present: Mapping[int, Tensor]) -> Tensor:
    total = row.part[1] if row.part else 1
    if len(present) < total:
        raise CheckpointError(f"{dialect.name}: {ours} is made of {total} tensors, but the file has {len(present)}")
    return present[0] if total == 1 else torch.cat([present[index] for index in range(total)])


def _match(rows: Sequence[Row], name: str, constants: Mapping[str, int]) -> tuple[Row | None, str | None]:
    """The row of a foreign name and our name; (None, None) if no row matches."""
    for row in rows:
        pattern, _ = compile_template(row.foreign, tuple(constants.items()))
        found = pattern.fullmatch(name)
        if found is None:
            continue
        if row.ours is None:
            return row, None
        ours = fill(row.ours, found.groupdict(), constants)
        if ours is not None:
            return row, ours
    return None, None
