"""Distinct colours for drawing: MATLAB's line colours, then a grid over RGB."""

import random

import numpy as np

# red green blue in thousandths
_TABLE = """
0 447 741, 850 325 98, 929 694 125, 494 184 556, 466 674 188, 301 745 933, 635 78 184, 300 300 300, 600 600 600,
1000 0 0, 1000 500 0, 749 749 0, 0 1000 0, 0 0 1000, 667 0 1000, 333 333 0, 333 667 0, 333 1000 0, 667 333 0,
667 667 0, 667 1000 0, 1000 333 0, 1000 667 0, 1000 1000 0, 0 333 500, 0 667 500, 0 1000 500, 333 0 500, 333 333 500,
333 667 500, 333 1000 500, 667 0 500, 667 333 500, 667 667 500, 667 1000 500, 1000 0 500, 1000 333 500, 1000 667 500,
1000 1000 500, 0 333 1000, 0 667 1000, 0 1000 1000, 333 0 1000, 333 333 1000, 333 667 1000, 333 1000 1000,
667 0 1000, 667 333 1000, 667 667 1000, 667 1000 1000, 1000 0 1000, 1000 333 1000, 1000 667 1000, 333 0 0, 500 0 0,
667 0 0, 833 0 0, 1000 0 0, 0 167 0, 0 333 0, 0 500 0, 0 667 0, 0 833 0, 0 1000 0, 0 0 167, 0 0 333, 0 0 500,
0 0 667, 0 0 833, 0 0 1000, 0 0 0, 143 143 143, 857 857 857, 1000 1000 1000
"""
_COLORS = (np.array([entry.split() for entry in _TABLE.split(",")], dtype=float) / 1000).astype(np.float32)


def colormap(rgb: bool = False, maximum: int = 255) -> np.ndarray:
    """All colours, float32 (N, 3).

    Args:
        rgb: RGB order, otherwise BGR.
        maximum: 255 or 1, the value of full intensity.
    """
    assert maximum in (255, 1), f"maximum is 255 or 1, got {maximum}"
    colors = _COLORS * maximum
    return colors if rgb else colors[:, ::-1]


def random_color(rgb: bool = False, maximum: int = 255) -> np.ndarray:
    """One colour, float32 (3,), drawn by numpy's global generator."""
    return colormap(rgb, maximum)[np.random.randint(0, len(_COLORS))]  # noqa: NPY002 -- seeded runs draw alike


def random_colors(N: int, rgb: bool = False, maximum: int = 255) -> list[np.ndarray]:
    """``N`` different colours, drawn by Python's global generator; ValueError if there are fewer."""
    colors = colormap(rgb, maximum)
    return [colors[i] for i in random.sample(range(len(_COLORS)), N)]
