#!/usr/bin/env python
"""Losses, AP and learning rate of one or several runs as curves; ``--help`` shows how."""

from __future__ import annotations

import sys
from pathlib import Path

# In a source tree that is not installed, packages lie beside tools/.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from detrex.visualization.charts import main

if __name__ == "__main__":
    sys.exit(main())
