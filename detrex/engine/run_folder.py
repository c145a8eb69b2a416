"""``train.output_dir``: one run at a time writes to it, and a new run never mixes with the files of an earlier one."""

from __future__ import annotations

import errno
import json
import logging
import os
import socket
import time
import uuid
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from detectron2.utils import comm
from omegaconf import DictConfig
from torch import nn

from detrex.checkpoint import Checkpointer, replace_file
from detrex.config import ConfigError, save_config
from detrex.utils.text import count_of

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

__all__ = ["RunFolder", "checkpoint_to_resume", "make_folder", "read_run_id"]

logger = logging.getLogger(__name__)

LOCK, CONFIG, PROPOSED, RUN_ID = "run.lock", "config.yaml", "config.yaml.new", "run_id"
_LOGS = "log.txt*"
_OF_A_RUN = (
    "model_*.pth",
    "model_*.pth.tmp",
    "last_checkpoint",
    "metrics.json",
    "events.out.tfevents.*",
    "non_finite_*.pth",
    CONFIG,
    "coco_instances_*",
    "report.html",
)
_TRACES = _OF_A_RUN[:5]  # of a run that has begun; the others may be of one that was refused


def make_folder(path: str) -> None:
    """Create ``train.output_dir``; called by all processes.

    Raises:
        ConfigError: it, or a folder above it, is a file.
    """
    refusal = ""
    if comm.is_main_process():
        try:
            os.makedirs(path, exist_ok=True)
        except (FileExistsError, NotADirectoryError) as e:
            refusal = f"train.output_dir={path}: {e.filename} is a file; give the path of a folder"
    _refuse(refusal)


class RunFolder:
    """The output folder, locked for this job until the context ends.

    The lock is the file ``run.lock``, with the process that holds it. Where the file system has POSIX locks, also
    shared between machines (NFS), they decide, and end with the process, however that ends. Elsewhere a lock counts as
    left behind if its process, on this machine, is gone.

    Every process of a job creates the object, the first one does the work.

    Args:
        path: of the folder, which is created.

    Raises:
        ConfigError: another run writes to it, or it is a file.
    """

    def __init__(self, path: str):
        make_folder(path)
        self._path = Path(path)
        self._lock: IO[str] | None = None
        self._log_sizes: dict[Path, int] = {}
        refusal = ""
        if comm.is_main_process():
            self._lock, refusal = _acquire(self._path / LOCK)
            self._log_sizes = {log: log.stat().st_size for log in self._path.glob(_LOGS)}
        _refuse(refusal)

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        if self._lock is not None:
            with suppress(OSError):
                (self._path / PROPOSED).unlink(missing_ok=True)  # the run was refused
                (self._path / LOCK).unlink()  # while it is still locked
            self._lock.close()

    def propose(self, cfg: DictConfig) -> None:
        """Keep the config of this run for :meth:`begin`.

        Raises:
            ConfigError: it cannot be written.
        """
        if comm.is_main_process():
            save_config(cfg, self._path / PROPOSED)

    def begin(self, *, fresh: bool, run_id: str = "") -> str:
        """Write ``config.yaml`` and ``run_id``, once nothing can refuse the run any more; called by all processes.

        Args:
            fresh: whether the run starts from the beginning: files of an earlier run are then moved into a folder of
                their own below this one, never deleted.
            run_id: of the checkpoint otherwise; "" if it has none.

        Returns:
            The id of the run, which belongs into its checkpoints.
        """
        run_id = run_id or read_run_id(self._path) if not fresh else ""
        run_id = comm.all_gather(run_id or uuid.uuid4().hex)[0]
        if comm.is_main_process():
            earlier = fresh and any(True for name in _TRACES for _ in self._path.glob(name))
            target = self._new_subfolder() if earlier else None
            if target and (old := read_run_id(self._path)):
                (target / RUN_ID).write_text(old)
            # First of all: from here on the checkpoints of the earlier run are those of another one.
            replace_file(self._path / RUN_ID, lambda f: f.write(run_id.encode()))
            if target:
                self._retire(target)
            (self._path / PROPOSED).replace(self._path / CONFIG)
        comm.synchronize()
        return run_id

    def _retire(self, target: Path) -> None:
        files = [path for name in _OF_A_RUN for path in self._path.glob(name)]
        for path in files:
            path.rename(target / path.name)
        for log, size in self._log_sizes.items():  # this run's lines stay
            lines = log.read_bytes()
            (target / log.name).write_bytes(lines[:size])
            os.truncate(log, 0)
            with log.open("ab") as f:
                f.write(lines[size:])
        logger.warning(
            "%s has the files of an earlier run: %s moved to %s. To continue a run, use --resume",
            self._path,
            count_of(len(files), "file"),
            target,
        )

    def _new_subfolder(self) -> Path:
        stem = time.strftime("earlier_run_%Y%m%d_%H%M%S")
        for suffix in ("", *(f"_{i}" for i in range(2, 1000))):
            with suppress(FileExistsError):
                target = self._path / f"{stem}{suffix}"
                target.mkdir()
                return target
        raise FileExistsError(errno.EEXIST, "a thousand runs began in the same second", str(self._path))


def read_run_id(folder: str | os.PathLike[str]) -> str:
    """The id of the run whose output folder it is; "" where it is not known."""
    with suppress(OSError):
        return Path(folder, RUN_ID).read_text(encoding="ascii", errors="replace").strip()
    return ""


def checkpoint_to_resume(folder: str) -> str | None:
    """The newest valid checkpoint of the run in a folder; None if it has none yet. Called by all processes.

    Raises:
        CheckpointError: all of them are damaged, or of another run.
    """
    checkpointer = Checkpointer(nn.Module(), folder, run_id=read_run_id(folder))
    return checkpointer.newest_valid() if checkpointer.has_checkpoint() else None


def _refuse(refusal: str) -> None:
    """Raise ConfigError in all processes if the first one has a reason."""
    refusal = comm.all_gather(refusal)[0]
    if refusal:
        raise ConfigError(refusal)


# -------------------------------------------------------------------------------------------------------------- lock
def _acquire(path: Path) -> tuple[IO[str] | None, str]:
    """The locked file and "", or None and who holds it."""
    while True:
        file = path.open("a+")
        exclusive = _try_lock(file)
        if exclusive and not _is_at(file, path):  # its holder has just removed it
            file.close()
            continue
        file.seek(0)
        holder = _parse(file.read())
        if exclusive is False or (holder and _may_run(holder, unless_known=exclusive is None)):
            file.close()
            return None, (
                f"train.output_dir={path.parent} is in use by another run: process {holder.get('pid', '?')} on "
                f"{holder.get('host', '?')}, since {holder.get('since', '?')}. Give this run another train.output_dir, "
                f"or stop that one first; if its process no longer exists, delete {path}"
            )
        file.truncate(0)
        pid = os.getpid()
        me = {"host": socket.gethostname(), "pid": pid, "started": _started(pid), "since": time.strftime("%F %T %z")}
        file.write(json.dumps(me))
        file.flush()
        return file, ""


def _try_lock(file: IO[str]) -> bool | None:
    """Whether the lock was free; None where there are no locks."""
    if fcntl is None:
        return None
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # of the process: data workers do not inherit it
    except OSError as e:
        return False if e.errno in (errno.EACCES, errno.EAGAIN) else None
    return True


def _is_at(file: IO[str], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _parse(text: str) -> dict[str, Any]:
    with suppress(ValueError):
        holder = json.loads(text)
        if isinstance(holder, dict):
            return holder
    return {}


def _may_run(holder: dict[str, Any], *, unless_known: bool) -> bool:
    """Whether the process that a lock names may still run; ``unless_known`` is the answer for another machine's."""
    pid = holder.get("pid")
    if os.name != "posix":  # no question that one can ask without harm
        return False
    if holder.get("host") != socket.gethostname() or not isinstance(pid, int):
        return unless_known
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # somebody else's
        pass
    return holder.get("started") == _started(pid)  # another process may have got the number


def _started(pid: int) -> str:
    """When a process began, in the kernel's clock ticks since boot; "" where the system does not tell."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    return ""
