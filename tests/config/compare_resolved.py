"""Compare the published configs of this checkout with those of another one, resolved.

    python tests/config/compare_resolved.py OTHER_CHECKOUT

Each checkout loads its own files with its own code. Equal are those whose values are, once the names of an earlier
version have become the current ones (detrex.config.renamed) and without keys of ``train`` and ``dataloader.data`` that
one side does not have. Exit status 1 if any differs.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from detectron2.utils.registry import locate
from omegaconf import OmegaConf

from detrex.config.renamed import rename_keys

ROOT = Path(__file__).resolve().parents[2]
_DUMP = """
import json
from pathlib import Path
try:
    from detrex.config.serialization import to_plain
except ImportError:
    from detrex.plain_config import to_plain
from detrex.config import load_config
paths = sorted(str(path) for path in Path("projects").glob("*/configs/*.py"))
print(json.dumps({path: to_plain(load_config(path)) for path in paths}))
"""


def dump(checkout: Path) -> dict[str, Any]:
    """Resolved configs of a checkout by their paths."""
    path = os.pathsep.join(map(str, (checkout, checkout / "detectron2_lite" / "src")))
    command = [sys.executable, "-c", _DUMP]
    environment = {**os.environ, "PYTHONPATH": path}
    run = subprocess.run(command, cwd=checkout, env=environment, check=True, capture_output=True, text=True)
    return json.loads(run.stdout.splitlines()[-1])


def differences(old: Any, new: Any, key: str = "") -> Iterator[str]:
    """Lines on what differs."""
    if isinstance(old, dict) and isinstance(new, dict):
        for part in dict.fromkeys([*old, *new]):
            name = f"{key}.{part}" if key else str(part)
            if part in old and part in new:
                yield from differences(old[part], new[part], name)
            elif not name.startswith(("train.", "dataloader.data.")):
                yield f"{name}: only in the {'other' if part in old else 'current'} one"
    elif old != new and not (key.endswith(("_target_", "_name_")) and locate(old) is locate(new)):
        yield f"{key}: {old!r} -> {new!r}"


def current_names(plain: dict[str, Any]) -> dict[str, Any]:
    """A config by the current names."""
    cfg = OmegaConf.create(plain)
    rename_keys(cfg)
    return OmegaConf.to_container(cfg)


def main() -> int:
    """Compare as the command line says."""
    olds, news = dump(Path(sys.argv[1]).resolve()), dump(ROOT)
    status = 0
    for path in sorted({*olds, *news}):
        if path not in olds or path not in news:
            found = [f"only in the {'other' if path in olds else 'current'} checkout"]
        else:
            found = list(differences(current_names(olds[path]), news[path]))
        status |= bool(found)
        print(f"{path}: {'; '.join(found) or 'equal'}")
    print(f"{len(news)} configs, {'all equal' if not status else 'some differ'}")
    return status


if __name__ == "__main__":
    sys.exit(main())
