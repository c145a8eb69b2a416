"""Changes to inputs: of bytes, of text, and of the values of a tree, all drawn from one seeded generator."""

from __future__ import annotations

import copy
import random
from typing import Any

# What readers have been seen to trip over.
VALUES = (
    *(None, True, False, 0, -1, 1, 2**31, 2**63, 2**64, -(2**63) - 1, 10**400),
    *(0.5, -0.0, 1e308, 1e-320, float("nan"), float("inf"), float("-inf")),
    *("", " ", "0", "1", "nan", "1_0", "\0", "\ud800", "\u202e", "a" * 5000),
    *("../../etc/passwd", "/dev/zero", "/", ".", ".."),
    *([], {}, [[]], [None], {"": None}, [1, 2, 3, 4], [0, 0, 0, 0], [float("nan")] * 4, [1e308] * 4, ["1"] * 4),
)
TOKENS = (
    *("nan", "inf", "-inf", "1e999", "-1", "0", "1_0", "0x10", "\u0661", "9" * 400, "", "\0", "\x85", "\u2028", ".."),
    *("&amp;", "<", "]]>", "- ", ": ", "*a", "&a [*a]", "!!python/object:os.system", "{{", "\ufeff", "\r"),
)


def mutate_bytes(data: bytes, rng: random.Random) -> bytes:
    """Bits flipped, pieces cut out, repeated, moved or replaced, the end missing."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4, 16))):
        position = rng.randrange(len(changed) + 1)
        length = min(rng.choice((1, 1, 2, 4, 8, 64)), max(len(changed) - position, 0))
        piece = slice(position, position + length)
        match rng.randrange(6):
            case 0 if length:
                changed[position] ^= 1 << rng.randrange(8)
            case 1:
                del changed[piece]
            case 2:
                changed[position:position] = changed[piece] * rng.choice((1, 2, 50))
            case 3:
                changed[piece] = rng.randbytes(length)
            case 4:
                changed[piece] = rng.choice((b"\0", b"\xff", b"\x7f")) * length
            case 5 if rng.random() < 0.3:
                del changed[position:]
    return bytes(changed)


def mutate_text(text: str, rng: random.Random) -> str:
    """Words replaced, lines repeated, moved and joined."""
    lines = text.split("\n")
    for _ in range(rng.choice((1, 1, 2, 5))):
        number = rng.randrange(len(lines))
        words = lines[number].split(" ")
        match rng.randrange(4):
            case 0:
                words[rng.randrange(len(words))] = rng.choice(TOKENS)
            case 1:
                words.insert(rng.randrange(len(words) + 1), rng.choice(TOKENS))
            case 2:
                words = words[: rng.randrange(len(words) + 1)]
            case 3:
                lines.insert(rng.randrange(len(lines) + 1), lines[number])
        lines[number] = " ".join(words)
    return "\n".join(lines)


def mutate_tree(tree: Any, rng: random.Random) -> Any:
    """A copy of nested lists and dicts with values replaced, removed, repeated and moved."""
    tree = copy.deepcopy(tree)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 8))):
        places = list(_places(tree))
        if not places:
            return rng.choice(VALUES)
        parent, key = rng.choice(places)
        match rng.randrange(6):
            case 0 | 1 | 2:
                parent[key] = copy.deepcopy(rng.choice(VALUES))
            case 3:
                del parent[key]
            case 4:
                other, other_key = rng.choice(places)
                parent[key] = copy.deepcopy(other[other_key])
            case 5 if isinstance(parent, list):
                parent.insert(key, copy.deepcopy(parent[key]))
            case 5:
                parent[rng.choice(("", "id", "bbox", "names", 0, "name"))] = parent.pop(key)
    return tree


def _places(tree: Any, depth: int = 0):
    """(parent, key) of every value."""
    if depth > 20:
        return
    entries = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in list(entries):
        yield tree, key
        yield from _places(value, depth + 1)
