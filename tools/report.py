#!/usr/bin/env python
"""``detrex report``, from a source tree that need not be installed."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from detrex.cli.report import main

if __name__ == "__main__":
    sys.exit(main())
