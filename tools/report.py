#!/usr/bin/env python
"""Write a self-contained HTML page about a run; ``--help`` shows how."""

from __future__ import annotations

import sys
from pathlib import Path

# In a source tree that is not installed, packages lie beside tools/.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from detrex.report import main

if __name__ == "__main__":
    sys.exit(main())
