"""detectron2's checkpointer, made strict about what it loads and careful about what it reads and writes."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from detectron2.checkpoint import DetectionCheckpointer
from torch import Tensor, nn

from .dialects import detect_dialect, to_ours
from .errors import CheckpointError
from .files import read_checkpoint, resolve_checkpoint
from .matching import LoadReport, match_state

__all__ = ["Checkpointer"]


class Checkpointer(DetectionCheckpointer):
    """Saves and loads a model with what belongs to its run.

    Differs from its base class: no file runs code when loaded; a file that does not fit is an error instead of a
    warning; a failed load leaves the object usable; writes are atomic.

    Args:
        model: may be wrapped in ``DistributedDataParallel``.
        save_dir: where checkpoints are written; "" writes none.
        strict: whether parameters that are missing, superfluous or of another shape raise.
        reinit: regular expressions of names that may be missing or of another shape all the same.
        metadata: plain values saved with every checkpoint as ``"metadata"`` (class names).
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
        **checkpointables: Any,
    ):
        super().__init__(model, save_dir, **checkpointables)
        self.strict, self.reinit, self.metadata = strict, list(reinit), metadata
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
        path = resolve_checkpoint(path) if path else path
        try:
            return super().load(path, checkpointables)
        finally:
            # The base class resets this only on success, and asserts on it at the next load.
            self._parsed_url_during_load = None

    def resume_or_load(self, path: str, *, resume: bool = True) -> dict[str, Any]:
        """Resume the run in ``save_dir`` if asked to and possible; otherwise load only the weights at ``path``."""
        if not (resume and self.has_checkpoint()):
            return self.load(path, checkpointables=[])
        strict, reinit = self.strict, self.reinit
        self.strict, self.reinit = True, []  # a run resumes whole or not at all
        try:
            return self.load(self.get_checkpoint_file())
        finally:
            self.strict, self.reinit = strict, reinit

    def save(self, name: str, **kwargs: Any) -> None:
        """Write ``<name>.pth`` and tag it as the last; an interrupted write leaves no file of that name."""
        if not self.save_dir or not self.save_to_disk:
            return
        data = {"model": self.model.state_dict()}
        data.update({key: obj.state_dict() for key, obj in self.checkpointables.items()})
        data.update(kwargs)
        if self.metadata is not None:
            data["metadata"] = self.metadata
        target = os.path.join(self.save_dir, f"{name}.pth")
        self.logger.info("Saving checkpoint to %s", target)
        temporary = f"{target}.tmp"
        with open(temporary, "wb") as f:
            torch.save(data, f)
            f.flush()
            os.fsync(f.fileno())
        os.replace(temporary, target)
        self.tag_last_checkpoint(f"{name}.pth")

    def _load_file(self, filename: str) -> dict[str, Any]:
        return {**read_checkpoint(filename), "filename": filename}

    def _load_model(self, checkpoint: dict[str, Any]) -> None:
        """Copy ``checkpoint["model"]`` into the model; the report stays in ``self.report``."""
        filename = checkpoint.pop("filename")
        state, fresh = self._translate(checkpoint.pop("model"), filename)
        assigned, report = match_state(self.model, state, reinit=[*self.reinit, *fresh])
        self.report = report
        if not report.loaded or (self.strict and not report.complete):
            raise CheckpointError(
                f"checkpoint {filename} does not fit the model:\n  {report.describe()}\n  {report.suggestion()}"
            )
        self.model.load_state_dict(assigned, strict=False)
        log = self.logger.info if report.complete else self.logger.warning
        log("Checkpoint %s: %s", filename, report.describe())

    def _translate(self, state: Mapping[str, Tensor], filename: str) -> tuple[Mapping[str, Tensor], Sequence[str]]:
        """Our names for a file of a foreign dialect, recognised by its names, and patterns of what it rightly lacks."""
        dialect = detect_dialect(state)
        if dialect is None:
            return state, ()
        try:
            translation = to_ours(
                dialect, state, num_classes=getattr(self.model, "num_classes", None), strict=self.strict
            )
        except CheckpointError as e:
            raise CheckpointError(f"checkpoint {filename}: {e}") from e
        self.logger.info("Checkpoint %s is in the dialect %r: %s", filename, dialect.name, translation.describe())
        return translation.state, dialect.fresh
