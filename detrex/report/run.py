"""What a run has left in its output folder, read when asked for. What is not there is said, not guessed."""

from __future__ import annotations

import contextlib
import io
import json
import os
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from detectron2.data import DatasetCatalog, MetadataCatalog
from omegaconf import DictConfig, OmegaConf
from pycocotools.coco import COCO

from detrex.config import load_config
from detrex.data import prepare_data
from detrex.inference.detector import Detector
from detrex.inference.drawing import read_metrics

from .mistakes import Match, match_image

__all__ = ["MissingPart", "Run", "ValidationData", "once"]

T = TypeVar("T")
RESULTS = "coco_instances_results.json"


class MissingPart(Exception):
    """A run lacks what a part of the report needs; the message says what, and where it would come from."""


@dataclass(frozen=True)
class ValidationData:
    """The data set that a run is evaluated on.

    Attributes:
        coco: its annotations, as the evaluation reads them.
        files: image id -> path.
        names: category id -> class name, ascending by id.
    """

    coco: COCO
    files: Mapping[int, str]
    names: Mapping[int, str]

    def objects(self, image_id: int) -> list[dict[str, Any]]:
        """Annotations of an image, crowds included."""
        return self.coco.imgToAnns.get(image_id, [])


def once(read: Callable[[Any], T]) -> cached_property[Callable[[], T]]:
    """A method without arguments that does its work at the first call and repeats the outcome, an exception too."""

    def outcome(self: Any) -> Callable[[], T]:
        try:
            value = read(self)
        except Exception as error:
            failure = error

            def again() -> T:
                raise failure

            return again
        return lambda: value

    return cached_property(outcome)


class Run:
    """An output folder of a training.

    Every part raises :class:`MissingPart` where the run lacks it, and what reading it raises where it is broken.

    Args:
        folder: ``train.output_dir`` of the run.
        overrides: of its ``config.yaml``, such as the place of the data on this machine.
        threshold: score from which a detection counts in ``matches()``.

    Raises:
        NotADirectoryError: there is no such folder.
    """

    def __init__(self, folder: str | os.PathLike[str], overrides: Sequence[str] = (), *, threshold: float = 0.3):
        self.folder, self.threshold = Path(folder), threshold
        self._overrides = overrides
        if not self.folder.is_dir():
            raise NotADirectoryError(f"{folder}: no such folder; give the output folder of a training")

    @once
    def curves(self) -> dict[str, tuple[list[int], list[float]]]:
        """Name -> (iterations, values) of ``metrics.json``."""
        return read_metrics(self._file("metrics.json", "it is written while a run trains"))

    @once
    def log(self) -> str:
        """Text of ``log.txt``."""
        path = self._file("log.txt", "a run begins with it")
        return path.read_text(encoding="utf-8", errors="replace")

    @once
    def config(self) -> DictConfig:
        """``config.yaml``, for this folder and any device."""
        cfg = load_config(self._file("config.yaml", "a training writes it, an evaluation does not"), self._overrides)
        OmegaConf.update(cfg, "train.output_dir", str(self.folder), force_add=True)
        OmegaConf.update(cfg, "train.device", "auto", force_add=True)
        return cfg

    @once
    def data(self) -> ValidationData:
        """The validation data that the config names."""
        cfg = self.config().copy()
        try:
            name = prepare_data(cfg, train=False).test_name
        except (OSError, ValueError) as error:
            raise MissingPart(
                f"the validation data cannot be read here: {error}. Where they lie elsewhere on this machine, add the "
                "override of their path to the command"
            ) from error
        records = DatasetCatalog.get(name)
        json_file = MetadataCatalog.get(name).get("json_file")
        if json_file is None:
            raise MissingPart(f"the data set {name!r} has no COCO json to evaluate against")
        with contextlib.redirect_stdout(io.StringIO()):
            coco = COCO(json_file)
        names = {i: str(coco.cats[i].get("name", i)) for i in sorted(coco.cats)}
        return ValidationData(coco, {r["image_id"]: r["file_name"] for r in records}, names)

    @once
    def detections(self) -> dict[int, list[dict[str, Any]]]:
        """Image id -> detections of the last evaluation in COCO's results format, best first."""
        data = self.data()
        path = self._file(RESULTS, "an evaluation writes it, and this run has had none")
        entries = json.loads(path.read_text(encoding="utf-8"))
        strangers = {e["image_id"] for e in entries} - set(data.coco.imgs)
        strangers |= {e["category_id"] for e in entries} - set(data.names)
        if strangers:
            raise MissingPart(f"{RESULTS} is of another data set: it has the image or category id {min(strangers)}")
        found: dict[int, list[dict[str, Any]]] = defaultdict(list)
        for entry in sorted(entries, key=lambda e: -e["score"]):
            found[entry["image_id"]].append(entry)
        return found

    @once
    def matches(self) -> list[Match]:
        """Which of the detections with a score of ``threshold`` or more are which objects."""
        data, found = self.data(), self.detections()
        confident = {i: [d for d in found.get(i, ()) if d["score"] >= self.threshold] for i in data.files}
        return [match for i in data.files for match in match_image(i, data.objects(i), confident[i])]

    @once
    def detector(self) -> Detector:
        """The trained model; its weights are those of ``model_final.pth``, or of the last checkpoint."""
        return Detector.from_config(self.config().copy(), self.weights)

    @property
    def weights(self) -> Path:
        """The final weights, averaged if they are, as evaluated; or the last checkpoint."""
        final, pointer = self.folder / "model_final_ema.pth", self.folder / "last_checkpoint"
        if not final.is_file():
            final = self.folder / "model_final.pth"
        if not final.is_file() and pointer.is_file():
            final = self.folder / pointer.read_text(encoding="utf-8").strip()
        if not final.is_file():
            raise MissingPart("the folder has no checkpoint: neither model_final.pth nor what last_checkpoint names")
        return final

    def _file(self, name: str, origin: str) -> Path:
        path = self.folder / name
        if not path.is_file():
            raise MissingPart(f"the folder has no {name}: {origin}")
        return path
