#!/usr/bin/env python
"""Train or evaluate a model described by a lazy config; ``--help`` shows how."""

from __future__ import annotations

import sys
from pathlib import Path

# In a source tree that is not installed, packages lie beside tools/.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from detrex.cli.train import run

if __name__ == "__main__":
    sys.exit(run())
