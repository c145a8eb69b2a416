"""Which tensors of a file belong to which parameters of a model, and what is left over on either side."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from .dialects.errors import CheckpointError, listing

__all__ = ["LoadReport", "has_own_names", "map_class_rows", "match_state"]

# Old files lack these buffers; the config sets them.
_FROM_CONFIG = re.compile(r"(^|\.)(pixel_mean|pixel_std)$")
# What an ImageNet classifier has and a backbone does not.
_CLASSIFIER = re.compile(r"(^|\.)((fc|head|classifier|linear)\.(weight|bias)|num_batches_tracked)$")
CLASS_ROWS = re.compile(r"(^|\.)class_embed(\.\d+)?\.(weight|bias)$")
# Row 0 of this classifier is objectness, the others are not used.
_OBJECTNESS = re.compile(r"(^|\.)proposals\.head\.class_embed\.(weight|bias)$")


@dataclass(frozen=True)
class LoadReport:
    """What loading a file into a model did, by parameter name.

    Attributes:
        loaded: copied from the file.
        missing: parameters that the file lacks.
        unexpected: tensors of the file that the model lacks.
        mismatched: (name, shape in the file, shape in the model).
        unusable: (name, why) of tensors whose numbers the model cannot have: complex, integer or not finite.
        reinit: missing or mismatched, and allowed to start afresh.
        ignored: tensors of the file that never matter (an ImageNet classifier).
        prefix: name of the part that the file is of, such as an ImageNet backbone; "" for the whole model.
    """

    loaded: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    mismatched: tuple[tuple[str, tuple[int, ...], tuple[int, ...]], ...]
    unusable: tuple[tuple[str, str], ...] = ()
    reinit: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()
    prefix: str = ""

    @property
    def complete(self) -> bool:
        """Whether everything fitted."""
        return not (self.missing or self.unexpected or self.mismatched or self.unusable)

    def describe(self, limit: int = 10) -> str:
        """A few lines for people; at most ``limit`` names of each kind, but all that start afresh."""
        what = f"a file of the part {self.prefix!r}" if self.prefix else "a file of the whole model"
        lines = [f"{len(self.loaded)} tensors loaded from {what}"]
        shapes = {name: f"{list(a)} in the file, {list(b)} in the model" for name, a, b in self.mismatched}
        for title, names in (
            ("missing in the file", self.missing),
            ("not in the model", self.unexpected),
            ("of another shape", shapes),
            ("with numbers that the model cannot have", {name: f"({why})" for name, why in self.unusable}),
            ("started afresh as allowed", self.reinit),
            ("ignored", self.ignored),
        ):
            if names:
                lines.append(f"{len(names)} {title}: {listing(names, len(names) if names is self.reinit else limit)}")
        return "\n  ".join(lines)

    def suggestion(self) -> str:
        """What to set so that the file loads all the same."""
        whatever = "train.checkpoint.strict=false loads whatever fits"
        names = [*(name for name, *_ in (*self.mismatched, *self.unusable)), *self.missing]
        # The last component that is a word, not an index or weight/bias, names the layer.
        words = [[part for part in name.split(".")[:-1] if not part.isdigit()] for name in names]
        layers = sorted({parts[-1] for parts in words if parts})
        if not layers or len(layers) > 5:
            return whatever
        return f"train.checkpoint.reinit=[{','.join(layers)}] starts these parameters afresh; {whatever}"


def match_state(
    model: nn.Module, state: Mapping[str, Tensor], *, reinit: Sequence[str] = ()
) -> tuple[dict[str, Tensor], LoadReport]:
    """Assign the tensors of ``state`` to the model's names; nothing is copied yet.

    A file that holds only a part of the model, such as an ImageNet backbone, is recognised by its names fitting below
    one prefix; then the rest of the model is not missing.

    Args:
        model: the model. state: the file's tensors by name.
        reinit: regular expressions, searched in names that may be missing or have another shape.

    Returns:
        Name -> tensor ready for ``load_state_dict(strict=False)``, and the report.
    """
    own = model.state_dict()
    prefix = _part_prefix(own, state)
    scope = {name: value for name, value in own.items() if name.startswith(prefix)}
    allowed = [re.compile(str(pattern)) for pattern in reinit]

    named = {prefix + key: value for key, value in state.items()}
    for path, module in model.named_modules():
        if hasattr(module, "adapt_state_dict"):  # such as Swin's position tables of another window size
            module.adapt_state_dict(named, f"{path}." if path else "")

    assigned, unexpected, ignored, mismatched, unusable, fresh = {}, [], [], [], [], []
    for name, value in named.items():
        key = name.removeprefix(prefix)
        if name not in scope:
            (ignored if prefix and _CLASSIFIER.search(key) else unexpected).append(key)
            continue
        fits = value.shape == scope[name].shape
        why = _why_unusable(value, scope[name]) if fits else ""
        if fits and not why:
            assigned[name] = value
        elif any(pattern.search(name) for pattern in allowed):
            fresh.append(name)
        elif fits:
            unusable.append((name, why))
        else:
            mismatched.append((name, tuple(value.shape), tuple(scope[name].shape)))

    found = {*assigned, *fresh, *(name for name, *_ in (*mismatched, *unusable))}
    absent = [n for n in scope if n not in found]
    tied = _storages(scope, assigned)
    absent = [n for n in absent if not _FROM_CONFIG.search(n) and _storage(scope[n]) not in tied]
    missing = [n for n in absent if not any(pattern.search(n) for pattern in allowed)]
    fresh += [n for n in absent if n not in missing]
    report = LoadReport(
        loaded=tuple(assigned),
        missing=tuple(missing),
        unexpected=tuple(unexpected),
        mismatched=tuple(mismatched),
        unusable=tuple(unusable),
        reinit=tuple(fresh),
        ignored=tuple(ignored),
        prefix=prefix.rstrip("."),
    )
    return assigned, report


def has_own_names(model: nn.Module, state: Mapping[str, Tensor]) -> bool:
    """Whether a file has every name of the model, or of one of its parts."""
    own = model.state_dict()
    prefix = _part_prefix(own, state)
    return all(name.removeprefix(prefix) in state for name in own if name.startswith(prefix))


def _part_prefix(own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> str:
    """The prefix under which most of the file's names fit, "" if they fit as they are."""
    votes = Counter({"": sum(name in own for name in state)})
    for name in own:
        parts = name.split(".")
        for k in range(1, len(parts)):
            if ".".join(parts[k:]) in state:
                votes[".".join(parts[:k]) + "."] += 1
    prefix, fitting = votes.most_common(1)[0]  # the first of equals: ""
    part_size = sum(name.startswith(prefix) for name in own)
    return prefix if 2 * fitting > part_size else ""


def _why_unusable(value: Tensor, own: Tensor) -> str:
    """Why a parameter cannot be a tensor of its shape; "" if it can."""
    if own.is_complex() or not own.is_floating_point():
        return f"{value.dtype}" if value.is_complex() and not own.is_complex() else ""
    if not value.is_floating_point():
        return f"{value.dtype} instead of {own.dtype}"
    value = value if value.dtype.itemsize > 1 else value.float()
    # The sum is not finite if a number is not, and cheap; it can overflow by itself.
    if value.is_meta or value.sum(dtype=torch.float32).isfinite() or value.isfinite().all():
        return ""
    return "NaN or infinite"


def _storage(tensor: Tensor) -> tuple[int, int, tuple[int, ...]]:
    return tensor.data_ptr(), tensor.storage_offset(), tuple(tensor.shape)


def _storages(scope: Mapping[str, Tensor], names: Mapping[str, Tensor]) -> set[tuple[int, int, tuple[int, ...]]]:
    """Where the parameters of ``names`` live: another name of the same parameter is loaded along with it."""
    return {_storage(scope[name]) for name in names if scope[name].data_ptr()}


def map_class_rows(
    state: Mapping[str, Tensor], model: nn.Module, old_names: Sequence[str], new_names: Sequence[str]
) -> dict[str, Tensor]:
    """Move the rows of the classifiers in ``state`` to where the model has the classes of the same names.

    The classifier of the proposals keeps its row 0, which is objectness.

    Args:
        state: tensors under our names. model: with the classes ``new_names``; it is not changed.
        old_names: of the rows in ``state``. new_names: of the rows in the model.

    Returns:
        All of ``state``; a row whose class ``old_names`` lacks, or has twice, is as the model has it now.

    Raises:
        CheckpointError: a classifier has another number of rows than there are names.
    """
    own, result = model.state_dict(), dict(state)
    position = {name: i for i, name in enumerate(old_names) if list(old_names).count(name) == 1}
    shared = [(position[name], i) for i, name in enumerate(new_names) if name in position]
    for name, value in state.items():
        if name not in own or not CLASS_ROWS.search(name):
            continue
        current = own[name].full_tensor() if isinstance(own[name], DTensor) else own[name]
        rows = current.detach().to(value.device, value.dtype, copy=True)
        if _OBJECTNESS.search(name):
            rows[:1] = value[:1]
        elif (len(value), len(rows)) != (len(old_names), len(new_names)) or value.shape[1:] != rows.shape[1:]:
            raise CheckpointError(
                f"{name}: {list(value.shape)} in the file and {list(rows.shape)} in the model do not fit "
                f"{len(old_names)} class names of the file and {len(new_names)} of the model: set "
                "train.checkpoint.reinit=[class_embed]"
            )
        else:
            for old, new in shared:
                rows[new] = value[old]
        result[name] = rows
    return result
