"""Our tensors under a dialect's names."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from .coco_classes import NUM_IDS, NUM_USED, insert_rows
from .errors import CheckpointError, listing
from .rename import Dialect, Row, Translation
from .templates import compile_template, fill

__all__ = ["from_ours"]


def from_ours(
    dialect: Dialect, state: Mapping[str, Tensor], constants: Mapping[str, int], *, num_classes: int | None = None
) -> Translation:
    """Rename our tensors to a dialect's names, the inverse of :func:`~.rename.to_ours`, without dropped tensors.

    Args:
        dialect: of the result.
        state: our tensors.
        constants: those of ``state``, see :func:`~.ours.our_constants`.
        num_classes: rows of the classifiers; 91 spreads COCO's 80 over its category ids, where the dialect has a rule.

    Returns:
        ``aliases`` are the names that repeat another tensor, as the dialect's own files do.

    Raises:
        CheckpointError: a tensor that no row can make.
    """
    renamed, source, aliases, classes, unknown = {}, {}, [], {}, []
    for name, value in state.items():
        made = [(row, foreign) for row in dialect.rows if (foreign := _invert(row, name, constants)) is not None]
        originals = [(row, foreign) for row, foreign in made if row.alias is None]
        if not originals:
            unknown.append(name)
            continue
        originals = originals[: originals[0][0].part[1] if originals[0][0].part else 1]
        repeated = [(row, foreign) for row, foreign in made if row.alias is not None and constants[row.alias]][:1]
        aliases += [foreign for _, foreign in repeated]
        source |= {foreign: (name,) for _, foreign in originals}
        for row, foreign in originals + repeated:
            renamed[foreign] = value.chunk(row.part[1])[row.part[0]] if row.part else value
            if row.classes and num_classes == NUM_IDS and len(value) == NUM_USED:
                renamed[foreign] = insert_rows(value, row.classes)
                classes[foreign] = f"{NUM_USED} spread over {NUM_IDS}"
    if unknown:
        raise CheckpointError(
            f"{dialect.name}: no rule makes {len(unknown)} tensors: {listing(unknown)}. Such a model has no "
            "counterpart there"
        )
    return Translation(renamed, source, (), tuple(aliases), classes, {})


def _invert(row: Row, name: str, constants: Mapping[str, int]) -> str | None:
    """The foreign name of one of ours by this row, or None."""
    if row.ours is None:
        return None
    pattern, shifts = compile_template(row.ours, tuple(sorted(constants.items())))
    found = pattern.fullmatch(name)
    if found is None:
        return None
    values = found.groupdict() | {field: str(int(found[field]) - shift) for field, shift in shifts.items()}
    return None if any(value.startswith("-") for value in values.values()) else fill(row.foreign, values, constants)
