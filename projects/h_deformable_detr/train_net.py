#!/usr/bin/env python
"""``detrex train``: detrex's recipe for this project, once a script of its own, is in its configs."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from detrex.cli.train import main

if __name__ == "__main__":
    sys.exit(main())
