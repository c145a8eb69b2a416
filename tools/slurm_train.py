#!/usr/bin/env python
"""Submit a training to SLURM, on one or several nodes; ``--help`` shows how."""

from __future__ import annotations

import sys
from pathlib import Path

# In a source tree that is not installed, packages lie beside tools/.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from detrex.checkpoint import CheckpointError
from detrex.cli.slurm import submit
from detrex.config import ConfigError

if __name__ == "__main__":
    try:
        job = submit()
    except (ConfigError, CheckpointError) as e:
        sys.exit(f"error: {e}")
    print(f"submitted as job {job.job_id}; its logs: {job.paths.stdout}")
