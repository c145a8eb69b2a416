"""What other programs put around a state dict: the key of the file that it is under, and prefixes of its names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor

from . import detect_dialect
from .errors import CheckpointError, listing
from .ours import ENCODER
from .rename import count

__all__ = ["unwrap"]

# Keys of weights, the first that a file has is taken: it is what the code that wrote the file evaluates.
RAW_KEYS = ("model", "state_dict", "model_state_dict", "net")
EMA_KEYS = ("ema_state_dict", "state_dict_ema", "model_ema", "ema_model", "ema_state", "ema")
INNER_KEYS = ("module", "averaged", "model", "state_dict")  # of what is under such a key, beside counters
# Within names: of torch.compile, FSDP and activation checkpointing, at any depth.
WITHIN = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")
EMA_PREFIXES = ("ema.", "ema_model.", "model_ema.", "averaged_model.")
MODEL_PREFIXES = ("model.", "net.", "network.", "detector.")  # attributes of a Lightning module
COUNTERS = frozenset({"n_averaged", "steps", "updates", "num_updates", "decay", "initted", "step"})


def unwrap(data: Any, choice: str = "") -> tuple[dict[str, Any], list[str]]:
    """Find the weights in what a file holds.

    A file may hold the weights of the last step and their average (EMA). Then the key ``model`` or ``state_dict``
    counts, as in the programs that write such files; MMDetection 3 puts the average there and the others under
    ``ema_state_dict``.

    Args:
        data: content of a file. choice: "ema" or "raw", for a file that holds both; "" for what counts.

    Returns:
        ``data`` with the weights as ``"model"``, and lines for people about what was done.

    Raises:
        CheckpointError: there are no weights, or not of the choice; without the name of the file.
    """
    if not isinstance(data, Mapping):
        raise CheckpointError(f"holds a {type(data).__name__}, not a dict")
    data, notes = dict(data), []
    written_here = isinstance(data.get("weights"), str)
    swapped = all(isinstance(data.get(key), Mapping) for key in ("state_dict", "ema_state_dict"))
    kinds = dict.fromkeys(RAW_KEYS, "raw") | dict.fromkeys(EMA_KEYS, "ema")
    if swapped:
        kinds |= {"state_dict": "ema", "ema_state_dict": "raw"}
    found = {key: kind for key, kind in kinds.items() if _is_state(key, data.get(key))}
    key = next((key for key, kind in found.items() if choice in ("", kind)), next(iter(found), None))
    if key is None:
        state, data = data, {}
    else:
        state = _inner(data.pop(key))
    kind = found.get(key, "")
    state, dropped = _clean(state)
    if not (written_here and key == "model"):
        averaged = {_after(name, EMA_PREFIXES): value for name, value in state.items() if name.startswith(EMA_PREFIXES)}
        others = {name: value for name, value in state.items() if not name.startswith(EMA_PREFIXES)}
        if averaged and (choice == "ema" or not others):
            state, kind = averaged, "ema"
        elif averaged:
            state, kind, found = others, "raw", {**found, EMA_PREFIXES: "ema"}
        if key != "model" or kind == "ema":
            state, note = _without_model_prefix(state)
            notes += note
    if choice and kind != choice and not (choice == "raw" and not kind):
        raise CheckpointError(f"holds no {choice} weights that are known as such; leave out ?{choice}")
    if kind == "ema":
        data["weights"] = "ema"
        notes.append(f"averaged (EMA) weights, of {key or 'all names'}")
    elif {"raw", "ema"} <= set(found.values()):
        notes.append("the averaged (EMA) weights in it are left aside; ?ema after the path takes them")
    if dropped:
        notes.append(f"left out: {listing(dropped)}")
    return {**data, "model": state}, notes


def _is_state(key: str, value: Any) -> bool:
    if not isinstance(value, Mapping):
        return False
    return key in RAW_KEYS[:2] or any(isinstance(item, (Tensor, np.ndarray)) for item in _inner(value).values())


def _inner(value: Mapping[Any, Any]) -> Mapping[Any, Any]:
    return next((value[key] for key in INNER_KEYS if isinstance(value.get(key), Mapping)), value)


def _clean(state: Mapping[Any, Any]) -> tuple[dict[str, Any], list[str]]:
    """Names without what wraps modules put into them, and counters that were left out."""
    cleaned, dropped = {}, []
    wrapped = any(str(name).startswith(("module.", *EMA_PREFIXES)) for name in state)
    for name, value in state.items():
        new = str(name)
        for part in WITHIN:
            new = new.replace(f".{part}", ".").removeprefix(part)
        new = new.removeprefix("module.")
        if new.rpartition(".")[2] in COUNTERS and wrapped and getattr(value, "ndim", 0) == 0:
            dropped.append(str(name))
        elif new in cleaned:
            raise CheckpointError(f"holds {new!a} twice, with and without what wraps modules")
        else:
            cleaned[new] = value
    return cleaned, dropped


def _after(name: str, prefixes: tuple[str, ...]) -> str:
    return next(name.removeprefix(p) for p in prefixes if name.startswith(p)).removeprefix("module.")


def _without_model_prefix(state: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Names without the attribute that a module of Lightning keeps its model under."""
    for prefix in MODEL_PREFIXES:
        inside = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
        rest = {name: value for name, value in state.items() if not name.startswith(prefix)}
        if inside and (not rest or (_is_known(inside) and not _is_known(state))):
            return inside | rest, [f"names below {prefix!r} are those of the model"]
    return state, []


def _is_known(state: Mapping[str, Any]) -> bool:
    arrays = {name: value for name, value in state.items() if len(getattr(value, "shape", ()))}
    return detect_dialect(arrays) is not None or count(arrays, f"{ENCODER}ffn.linear1.weight") > 0
