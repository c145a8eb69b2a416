"""Fuzzes the readers of annotations and checkpoints; each input is read, or refused by one of our errors.

    python -m tests.fuzz.fuzz --inputs 100000 [--seed 0] [--finds FOLDER] [--record FILE]

Inputs follow from the seed and their number alone. What raises anything else, or takes more than ten seconds, is
written to FOLDER as ``<target>-<hash>``; the committed ones are in tests/fuzz/corpus, which test_fuzz.py replays.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import math
import platform
import random
import resource
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path

from .targets import TARGETS

SECONDS = 10  # for an input
MEMORY = 2 * 2**30  # bytes that may be added; an input that asks for more gets a MemoryError
CORPUS = Path(__file__).parent / "corpus"


class TooSlow(BaseException):
    """Not an Exception: the readers' own handlers must not take it for damage."""


@contextlib.contextmanager
def time_limit() -> Iterator[None]:
    def stop(*_: object) -> None:
        raise TooSlow

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextlib.contextmanager
def prepared(name: str) -> Iterator[Path]:
    """A folder with the sound whole of a target."""
    with tempfile.TemporaryDirectory() as folder:
        TARGETS[name].prepare(Path(folder))
        yield Path(folder)


def run_inputs(name: str, count: int, seed: int, first: int = 0) -> Iterator[tuple[bytes, bool | BaseException]]:
    """(input, whether it was read, or what it raised against the promise) of a target's inputs."""
    target = TARGETS[name]
    with prepared(name) as folder:
        for number in range(first, first + count):
            data = target.generate(random.Random(f"{seed} {name} {number}"))
            try:
                with time_limit():
                    result = target.run(folder, data)
            except (Exception, TooSlow) as error:
                result = error
            yield data, result


def address_space() -> int:
    """Bytes that this process has mapped. Needs Linux."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def file_name(target: str, data: bytes) -> str:
    return f"{target}-{hashlib.sha256(data).hexdigest()[:12]}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--inputs", type=int, default=1000, help="over all targets")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--finds", type=Path, default=Path("output/fuzz"), metavar="FOLDER")
    parser.add_argument("--record", type=Path, metavar="FILE", help="counts, versions and date as json")
    options = parser.parse_args()
    warnings.simplefilter("ignore")  # torch's, of pickles in odd versions
    limit = address_space() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    counts: dict[str, Counter] = {}
    kinds: Counter[str] = Counter()
    begin = time.process_time()
    weights = sum(target.weight for target in TARGETS.values())
    for name, target in TARGETS.items():
        counts[name] = Counter()
        share = math.ceil(options.inputs * target.weight / weights)
        for data, result in run_inputs(name, share, options.seed):
            outcome = "finds" if isinstance(result, BaseException) else "read" if result else "refused"
            counts[name][outcome] += 1
            if not isinstance(result, BaseException):
                continue
            last = traceback.extract_tb(result.__traceback__)[-1]
            kind = f"{name}: {type(result).__name__} at {Path(last.filename).name}:{last.lineno}: {str(result)[:100]!a}"
            if not kinds[kind]:
                options.finds.mkdir(parents=True, exist_ok=True)
                (options.finds / file_name(name, data)).write_bytes(data)
            kinds[kind] += 1
        print(f"{name}: {dict(counts[name])}", flush=True)
    for kind, count in kinds.most_common():
        print(f"{count} x {kind}")
    if options.record:
        record = {
            "inputs": sum(map(Counter.total, counts.values())),
            "seed": options.seed,
            "finds": sum(kinds.values()),
            "targets": {name: dict(counter) for name, counter in counts.items()},
            "cpu_seconds": round(time.process_time() - begin),
            "python": platform.python_version(),
            **{name: metadata.version(name) for name in ("torch", "numpy", "safetensors", "pyyaml", "pillow")},
            "date": datetime.now(timezone.utc).strftime("%Y-%m-%d"),
        }
        options.record.write_text(json.dumps(record, indent=1) + "\n")
    return 1 if kinds else 0


if __name__ == "__main__":
    sys.exit(main())
