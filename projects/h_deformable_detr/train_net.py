#!/usr/bin/env python
"""The same as ``tools/train_net.py``: detrex's recipe for this project, once a script of its own, is in its configs."""

from __future__ import annotations

import sys
from pathlib import Path

# In a source tree that is not installed, packages lie two folders up.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from detrex.cli.train import run

if __name__ == "__main__":
    sys.exit(run())
