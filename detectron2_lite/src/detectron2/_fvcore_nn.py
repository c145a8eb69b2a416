"""``fvcore.nn``, imported without the deprecation warnings of the TorchScript functions that it compiles on import.

Import this module before anything from ``fvcore.nn``.
"""

from __future__ import annotations

import warnings

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    import fvcore.nn as fvcore_nn

__all__ = ["fvcore_nn"]
