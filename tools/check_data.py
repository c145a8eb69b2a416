#!/usr/bin/env python
"""Check a data set of your own, draw it, and write a cleaned copy if asked; ``--help`` shows how."""

from __future__ import annotations

import sys
from pathlib import Path

# In a source tree that is not installed, packages lie beside tools/.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from detrex.cli.check_data import main

if __name__ == "__main__":
    sys.exit(main())
