"""Runs in processes of their own that can be killed, and what is compared afterwards.

The processes are forked by a server that has imported everything, so that each costs a fraction of a second.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import json
import multiprocessing
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from functools import partial
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["torch._dynamo", "torch.utils.tensorboard", "detrex.cli.train", "saboteur"])

Prepare = Callable[[], Any]


# --------------------------------------------------------------------------------------------------------- processes
def _child(argv: list[str], messages: Path, prepare: Prepare | None) -> None:
    os.setsid()  # a group of its own, as a job has
    multiprocessing.set_start_method("fork", force=True)  # of data workers, as in a process that nobody forked
    torch.set_num_threads(1)
    with messages.open("a", buffering=1) as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        if prepare is not None:
            prepare()
        from detrex.cli.train import main

        sys.exit(main(argv))


class Run:
    """A run in a process of its own, into ``output``; its console goes to ``<output>.<rank>.txt``.

    Args:
        config: of the run. options: of the command line. prepare: called in the process before it begins.
        rank: of the process in a job of several.
    """

    def __init__(self, config: Path, output: Path, *options: str, prepare: Prepare | None = None, rank: int = 0):
        self.output, self._messages = output, output.with_suffix(f".{rank}.txt")
        self._messages.touch()
        self._begin = self._messages.stat().st_size
        flags = list(itertools.takewhile(lambda option: "=" not in option, options))
        overrides = [f"train.output_dir={output}", *options[len(flags) :]]
        argv = ["--config-file", str(config), *flags, *overrides]
        self.process: BaseProcess = _CONTEXT.Process(target=_child, args=(argv, self._messages, prepare))
        self.process.start()

    @property
    def messages(self) -> str:
        """What the process has printed so far."""
        return self._messages.read_bytes()[self._begin :].decode(errors="replace")

    def wait_for(self, text: str, timeout: float = 60) -> bool:
        """Wait until ``text`` is printed; False if the process has ended without."""
        end = time.monotonic() + timeout
        while text not in self.messages:
            if not self.process.is_alive():
                return text in self.messages
            assert time.monotonic() < end, f"{text!r} did not come:\n{self.messages}"
            time.sleep(0.002)
        return True

    def children(self) -> list[int]:
        """Process ids of the data workers."""
        with contextlib.suppress(OSError):
            pid = self.process.pid
            return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
        return []

    def kill(self) -> None:
        """SIGKILL, and wait for the end, which the run may have come to just before."""
        self.process.kill()
        self.finish(None)
        assert self.process.exitcode in (0, -signal.SIGKILL), f"{self.process.exitcode}:\n{self.messages[-2000:]}"

    def finish(self, status: int | None = 0) -> str:
        """Wait for the end, and check the exit status, negative for a signal; the last message."""
        self.process.join(120)
        end = self.messages[-2000:]
        assert self.process.exitcode is not None, f"still running:\n{end}"
        assert status in (None, self.process.exitcode), f"status {self.process.exitcode}, not {status}:\n{end}"
        return self.messages[max(self.messages.rfind("\nerror: ") + 1, 0) :] if status else self.messages


def run_two(config: Path, output: Path, *options: str) -> list[Run]:
    """A job of two processes on the CPU, as torchrun starts them."""
    ranks = [be_one_of_two(rank, port) for port in [free_port()] for rank in range(2)]
    return [Run(config, output, "--num-gpus", "0", *options, prepare=join, rank=i) for i, join in enumerate(ranks)]


def be_one_of_two(rank: int, port: int) -> Prepare:
    """Set the environment of one process of two, whose first one listens on a port."""
    return partial(_be_one_of_two, rank, port)


def free_port() -> int:
    """A TCP port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def use_one_thread() -> None:
    """In the processes that ``--num-gpus`` starts, too; torchrun does so by itself."""
    os.environ["OMP_NUM_THREADS"] = "1"


def spoil_reading(name: str, number: int | None) -> None:
    """Have an image of this process and its data workers be smaller than it is, or reading it fail."""
    from detrex.data import mapper

    opened = mapper.open_image

    def open_image(path):
        image = opened(path)
        if not str(path).endswith(name):
            return image
        if number is not None:
            raise OSError(number, os.strerror(number), str(path))
        return image.resize((7, 5))

    mapper.open_image = open_image


def use_torchrun() -> None:
    """The command line is run by two processes that torchrun starts."""
    from detrex.cli import train

    os.environ["PYTHONPATH"] = os.pathsep.join(sys.path)
    train.main = _torchrun


def _torchrun(argv: list[str]) -> int:
    from torch.distributed.run import main

    main(["--standalone", "--nproc-per-node=2", str(Path(__file__).parents[2] / "tools" / "train_net.py"), *argv])
    return 0


def _be_one_of_two(rank: int, port: int) -> None:
    os.environ.update(RANK=f"{rank}", LOCAL_RANK=f"{rank}", WORLD_SIZE="2", LOCAL_WORLD_SIZE="2")
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=f"{port}")


# ---------------------------------------------------------------------------------------------- faults while writing
class _Meter:
    """A file that calls ``stop`` once ``limit`` bytes would be exceeded, after writing what still fits."""

    def __init__(self, file: BinaryIO, limit: int, stop: Prepare):
        self._file, self._left, self._stop = file, limit, stop

    def write(self, data: bytes) -> int:
        fits = memoryview(data)[: self._left]
        self._file.write(fits)
        self._left -= len(fits)
        if len(fits) < len(data):
            self._file.flush()
            self._stop()
        return len(data)

    def flush(self) -> None:
        self._file.flush()


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _disk_full() -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _limit_write(number: int, limit: int, stop: Prepare) -> None:
    save, calls = torch.save, []

    def limited(data: Any, file: Any) -> None:
        if not str(getattr(file, "name", file)).endswith(".pth.tmp"):  # the evaluator saves too
            return save(data, file)
        calls.append(1)
        return save(data, _Meter(file, limit, stop) if len(calls) == number else file)

    torch.save = limited


def die_while_writing(number: int, limit: int) -> None:
    """SIGKILL after ``limit`` bytes of the checkpoint that is the process's ``number``-th."""
    _limit_write(number, limit, _die)


def fill_disk(number: int, limit: int) -> None:
    """No space is left after ``limit`` bytes of the checkpoint that is the process's ``number``-th."""
    _limit_write(number, limit, _disk_full)


def limit_file_size(limit: int) -> None:
    """The kernel refuses to write more than ``limit`` bytes into any one file."""
    import resource

    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))


def die_before_rename(number: int, name: str = "") -> None:
    """SIGKILL in place of the process's ``number``-th rename; a checkpoint and its tag are one each.

    With ``name``, only files are counted that get a name with this in it.
    """
    replace, calls = os.replace, []

    def dying(source: Any, target: Any) -> None:
        calls.extend([1] if name in Path(target).name else [])
        if len(calls) == number:
            _die()
        replace(source, target)

    os.replace = dying


# --------------------------------------------------------------------------------------------------------- comparison
def _is_of_the_machine(name: str) -> bool:
    return name.endswith("time") or name in ("eta_seconds", "max_rss_mb", "run_id")


def metrics(output: Path) -> list[dict[str, Any]]:
    """Rows of ``metrics.json``, without times and memory."""
    rows = [json.loads(line) for line in (output / "metrics.json").read_text().splitlines()]
    return [{k: v for k, v in row.items() if not _is_of_the_machine(k)} for row in rows]


def tensorboard(output: Path) -> dict[str, dict[int, float]]:
    """Scalars by name and step, as TensorBoard shows the folder."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(output))
    events.Reload()
    names = [name for name in events.Tags()["scalars"] if not _is_of_the_machine(name)]
    shown = {name: [(event.step, event.value) for event in events.Scalars(name)] for name in names}
    for name, points in shown.items():
        assert len(dict(points)) == len(points), f"{name} has several values for a step: {points}"
    return {name: dict(points) for name, points in shown.items()}


def checkpoint(output: Path, name: str = "model_final") -> dict[str, Any]:
    """Contents of a checkpoint, as plain values."""
    return torch.load(output / f"{name}.pth", weights_only=True)


def assert_same(a: Any, b: Any, where: str = "checkpoint") -> None:
    """Two checkpoints are equal to the last bit, but for times and memory."""
    assert type(a) is type(b), where
    if isinstance(a, Tensor):
        assert torch.equal(a, b), where
    elif isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a:
            if not _is_of_the_machine(str(key)):
                assert_same(a[key], b[key], f"{where}.{key}")
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b), where
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_same(x, y, f"{where}.{i}")
    else:
        assert a == b or a != a, f"{where}: {a} != {b}"  # a NaN is none of the two's fault


def assert_same_run(output: Path, undisturbed: Path) -> None:
    """Weights, optimizer, random generators, data position, metrics, TensorBoard and best weights are the same."""
    names = sorted(path.stem for path in undisturbed.glob("model_[bf]*.pth"))
    assert sorted(path.stem for path in output.glob("model_[bf]*.pth")) == names
    for name in names:
        assert_same(checkpoint(output, name), checkpoint(undisturbed, name), name)
    assert metrics(output) == metrics(undisturbed)
    assert tensorboard(output) == tensorboard(undisturbed)
