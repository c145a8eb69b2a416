"""detectron2's checkpointer, made strict about what it loads and careful about what it reads and writes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.utils import comm
from torch import Tensor, nn

from detrex.utils.regular_files import open_regular
from detrex.utils.text import printable

from .dialects import detect_dialect, to_ours
from .dialects.errors import CheckpointError
from .locating import resolve_checkpoint
from .matching import CLASS_ROWS, LoadReport, has_own_names, map_class_rows, match_state
from .reading import class_names, read_checkpoint, run_id_of, verify_archive
from .writing import cause_on_disk, is_spread, like, replace_file, whole

__all__ = ["Checkpointer"]

_OF_A_RUN = re.compile(r"model_(\d{7}|final)\.pth")


class Checkpointer(DetectionCheckpointer):
    """Saves and loads a model with what belongs to its run.

    Differs from its base class: no file runs code when loaded; a file that does not fit is an error instead of a
    warning; a failed load leaves the object usable; writes are atomic and checksums verified; a damaged checkpoint is
    passed over for the one before.

    Args:
        model: may be wrapped in ``DistributedDataParallel``.
        save_dir: where checkpoints are written; "" writes none.
        strict: whether parameters that are missing, superfluous or of another shape raise.
        reinit: regular expressions of names that may be missing or of another shape all the same.
        metadata: plain values saved with every checkpoint as ``"metadata"``. A file with other ``class_names`` gives
            its classifiers the rows of those that both have; the other rows keep their initial values.
        run_id: of the run, saved with every checkpoint as ``"run_id"``; a run with an id does not resume from the
            checkpoints of another.
        checkpointables: objects with ``state_dict``/``load_state_dict`` to save along, such as ``trainer``.
    """

    def __init__(
        self,
        model: nn.Module,
        save_dir: str = "",
        *,
        strict: bool = True,
        reinit: Sequence[str] = (),
        metadata: dict[str, Any] | None = None,
        run_id: str = "",
        **checkpointables: Any,
    ):
        super().__init__(model, save_dir, **checkpointables)
        self.strict, self.reinit, self.metadata = strict, list(reinit), metadata
        self.run_id = run_id
        self.report: LoadReport | None = None

    def load(self, path: str, checkpointables: list[str] | None = None) -> dict[str, Any]:
        """Load a path or URL; "" loads nothing.

        Args:
            path: see :func:`resolve_checkpoint`.
            checkpointables: names of the objects to load beside the model; None for all that the file has.

        Returns:
            What else the file holds.

        Raises:
            CheckpointError: the file is absent, unreadable or does not fit.
        """
        if not path:
            self.logger.info("No checkpoint to load: the model keeps its initial weights")
            return {}
        filename = resolve_checkpoint(path)
        checkpoint = read_checkpoint(filename, checksums=True)
        self._load_weights(checkpoint, filename)
        for name in self.checkpointables if checkpointables is None else checkpointables:
            if name not in checkpoint:
                continue
            self.logger.info("Loading %s from %s", name, filename)
            try:
                self.checkpointables[name].load_state_dict(checkpoint.pop(name))
            except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as e:
                raise CheckpointError(
                    f"checkpoint {filename}: what it keeps as {name!r} does not fit this run: {type(e).__name__}: {e}"
                ) from e
        return checkpoint

    def resume_or_load(self, path: str, *, resume: bool = True) -> dict[str, Any]:
        """Resume the run in ``save_dir`` if asked to and possible; otherwise load only the weights at ``path``.

        Raises:
            CheckpointError: see :meth:`load`; or there are checkpoints to resume from, and all of them are damaged.
        """
        if not (resume and self.has_checkpoint()):
            return self.load(path, checkpointables=[])
        strict, reinit = self.strict, self.reinit
        self.strict, self.reinit = True, []  # a run resumes whole or not at all
        try:
            return self.load(self.newest_valid())
        finally:
            self.strict, self.reinit = strict, reinit

    def has_checkpoint(self) -> bool:
        """Whether there is something to resume from, for all processes as the first one sees it."""
        return comm.all_gather(bool(self._newest_first()))[0]

    def newest_valid(self) -> str:
        """The newest checkpoint of the run in ``save_dir`` that is not damaged; others are passed over with a message.

        Raises:
            CheckpointError: there is none.
        """
        # The first process looks, for the folder may be its own alone, and all must take the same.
        found, faults = comm.all_gather(self._look() if comm.is_main_process() else None)[0]
        for fault in faults:
            self.logger.error("Passed over for an older checkpoint: %s", fault)
        if not found:
            listing = "\n  ".join(faults) or "there is none"
            raise CheckpointError(f"no valid checkpoint to resume from in {self.save_dir}:\n  {listing}")
        return found

    def _look(self) -> tuple[str, list[str]]:
        faults = []
        for path in self._newest_first():
            try:
                verify_archive(path)
                other = run_id_of(path) if self.run_id else ""
                if other not in ("", self.run_id):
                    raise CheckpointError(f"checkpoint {path} is of another run: its run_id is {other!a}")
            except CheckpointError as e:
                faults.append(str(e))
            else:
                return str(path), faults
        return "", faults

    def _newest_first(self) -> list[Path]:
        """Checkpoints of the run: first the one that is tagged as the last, then the others from new to old."""
        folder = Path(self.save_dir)
        if not self.save_dir or not folder.is_dir():
            return []
        files = [path for path in folder.iterdir() if _OF_A_RUN.fullmatch(path.name)]
        files.sort(key=lambda path: path.stat().st_mtime_ns, reverse=True)
        tagged = [Path(path) for path in [self.get_checkpoint_file()] if path]
        return [*tagged, *(file for file in files if file not in tagged)]

    def save(self, name: str, **kwargs: Any) -> None:
        """Write ``<name>.pth`` and tag it as the last; an interrupted write leaves no file of that name.

        Called by all processes, for the state of some objects is gathered from all of them; the first one writes.

        Raises:
            OSError: the file cannot be written; the checkpoints before it are intact, and the message names the last.
        """
        data = {"model": self.model.state_dict(), "weights": "raw"}
        data.update({key: obj.state_dict() for key, obj in self.checkpointables.items()})
        data.update(kwargs)
        if self._write(name, data):
            self.tag_last_checkpoint(f"{name}.pth")

    def save_weights(self, name: str, *, ema: nn.Module | None = None, **kwargs: Any) -> None:
        """Write the model alone to ``<name>.pth``, which is not tagged and never resumed from; called by all processes.

        With ``ema``, the model with averaged weights, that is written instead, to ``<name>_ema.pth``.
        """
        if ema is None:
            self._write(name, {"model": self.model.state_dict(), "weights": "raw", **kwargs})
        else:
            self._write(f"{name}_ema", {"model": ema.state_dict(), "weights": "ema", **kwargs})

    def _write(self, name: str, data: dict[str, Any]) -> bool:
        if is_spread(self.model):
            data = whole(data)
        if not self.save_dir or not self.save_to_disk:
            return False
        if self.metadata is not None:
            data["metadata"] = self.metadata
        if self.run_id:
            data["run_id"] = self.run_id
        target = Path(self.save_dir, f"{name}.pth")
        self.logger.info("Saving checkpoint to %s", target)
        try:
            replace_file(target, lambda f: torch.save(data, f))
        except (OSError, RuntimeError) as e:
            error = cause_on_disk(e)
            if error is None:
                raise
            last = self.get_checkpoint_file()
            kept = f"The last checkpoint, {last}, is intact" if last else "There is no checkpoint yet"
            raise OSError(error.errno, f"cannot write {target}: {error.strerror or error}. {kept}") from e
        return True

    def get_checkpoint_file(self) -> str:
        """The checkpoint that the file ``last_checkpoint`` names; "" without one, or if the file is damaged."""
        note = Path(self.save_dir, "last_checkpoint")
        try:
            with open_regular(note) as file:
                name = file.read(1000).decode().strip()
        except FileNotFoundError:
            return ""
        except (OSError, UnicodeDecodeError) as e:
            self.logger.warning("%s cannot be read, the newest checkpoint counts instead: %s", note, e)
            return ""
        if not name.isprintable() or Path(name).name != name or not Path(self.save_dir, name).is_file():
            self.logger.warning("%s names no checkpoint beside it, the newest counts instead: %a", note, name)
            return ""
        return str(Path(self.save_dir, name))

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """Note in the file ``last_checkpoint`` which one to resume from, at once or not at all."""
        replace_file(Path(self.save_dir, "last_checkpoint"), lambda f: f.write(last_filename_basename.encode()))

    def remove_older(self, iteration: int, *, keep: int) -> None:
        """Remove ``model_<iteration>.pth`` but for the newest ``keep`` up to an iteration, and what broke off."""
        if not self.save_dir or not self.save_to_disk:
            return
        folder = Path(self.save_dir)
        numbered = sorted(path for path in folder.glob("model_*.pth") if re.fullmatch(r"model_\d{7}", path.stem))
        older = [path for path in numbered if int(path.stem[6:]) <= iteration][:-keep]
        for path in [*older, *folder.glob("model_*.pth.tmp")]:
            try:
                path.unlink()
            except OSError as e:
                self.logger.warning("Cannot remove %s: %s", path, e)

    def _load_weights(self, checkpoint: dict[str, Any], filename: str) -> None:
        """Move ``checkpoint["model"]`` into the model; the report stays in ``self.report``."""
        state, fresh = self._translate(checkpoint.pop("model"), filename)
        state = self._follow_classes(state, class_names(checkpoint), filename)
        assigned, report = match_state(self.model, state, reinit=[*self.reinit, *fresh])
        self.report = report
        if not report.loaded or (self.strict and not report.complete):
            raise CheckpointError(
                f"checkpoint {filename} does not fit the model:\n  {report.describe()}\n  {report.suggestion()}"
            )
        own = self.model.state_dict()
        self.model.load_state_dict({name: like(value, own[name]) for name, value in assigned.items()}, strict=False)
        log = self.logger.info if report.complete else self.logger.warning
        weights = checkpoint.get("weights")
        kind = {"raw": " (raw weights)", "ema": " (EMA weights)"}.get(weights if isinstance(weights, str) else "", "")
        log("Checkpoint %s%s: %s", filename, kind, report.describe())

    def _follow_classes(
        self, state: Mapping[str, Tensor], trained: Sequence[str], filename: str
    ) -> Mapping[str, Tensor]:
        """Rows of classifiers moved to the classes of the same names, where the file's names are not the run's."""
        wanted = (self.metadata or {}).get("class_names", ())
        if not trained or not wanted or list(trained) == list(wanted):
            return state
        if not any(CLASS_ROWS.search(name) for name in self.model.state_dict()):
            self.logger.warning(
                "%s was trained on other classes, and %s has no class_embed to match them by name in: its rows are "
                "loaded as they are", filename, type(self.model).__name__,
            )  # fmt: skip
            return state
        try:
            state = map_class_rows(state, self.model, trained, wanted)
        except CheckpointError as e:
            if any(re.search(pattern, "class_embed.weight") for pattern in self.reinit):
                return state  # these rows are of no use, as the config says
            raise CheckpointError(f"checkpoint {filename}: {e}") from e
        kept = [name for name in wanted if name in trained]
        self.logger.warning(
            "%s was trained on other classes: its classifiers keep the rows of %s; %s of %d rows are reinitialized",
            filename, ", ".join(map(printable, kept)) or "no class", len(wanted) - len(kept), len(wanted),
        )  # fmt: skip
        return state

    def _translate(self, state: Mapping[str, Tensor], filename: str) -> tuple[Mapping[str, Tensor], Sequence[str]]:
        """Our names for a file of a foreign dialect, recognised by its names, and patterns of what it rightly lacks."""
        dialect = detect_dialect(state)
        if dialect is None or has_own_names(self.model, state):  # a ResNet of timm in a TimmBackbone
            return state, ()
        try:
            translation = to_ours(
                dialect, state, num_classes=getattr(self.model, "num_classes", None), strict=self.strict
            )
        except CheckpointError as e:
            raise CheckpointError(f"checkpoint {filename}: {e}") from e
        self.logger.info("Checkpoint %s is in the dialect %r: %s", filename, dialect.name, translation.describe())
        return translation.state, dialect.fresh
