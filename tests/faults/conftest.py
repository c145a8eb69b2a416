"""The undisturbed run that disturbed ones are compared with."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A config whose data are loaded by two workers."""
    from saboteur import write_sabotage_config

    return write_sabotage_config(tmp_path_factory.mktemp("faults"), num_workers=2)


@pytest.fixture(scope="session")
def undisturbed(config: Path) -> Path:
    """Output of a run that nothing happened to."""
    from harness import Run

    run = Run(config, config.parent / "undisturbed")
    run.finish()
    return run.output
