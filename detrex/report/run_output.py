"""The output folder of a training, each part read when it is asked for."""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from detectron2.data import DatasetCatalog
from detectron2.structures import BoxMode
from omegaconf import DictConfig, OmegaConf

from detrex.analysis.mistakes import Match, match_image
from detrex.config import load_config
from detrex.data import category_ids, prepare_data
from detrex.data.class_names import ids_by_name, known_classes
from detrex.data.coco_metrics import BoxMetrics
from detrex.data.evaluation import METRICS, RESULTS
from detrex.inference.detector import Detector
from detrex.utils.regular_files import open_regular
from detrex.visualization.charts import read_metrics

__all__ = ["MissingPartError", "RunOutput", "ValidationData", "environment", "log_facts"]


class MissingPartError(Exception):
    """A run lacks what a part of the report needs; the message says what, and where it would come from."""


@dataclass(frozen=True)
class ValidationData:
    """The data set that a run is evaluated on.

    Attributes:
        files: image id -> path.
        names: category id -> class name, ascending by id.
        objects: image id -> its objects, crowds included, as in a COCO json: "category_id", "bbox" (xywh), "iscrowd".
    """

    files: Mapping[int, str]
    names: Mapping[int, str]
    objects: Mapping[int, Sequence[Mapping[str, Any]]]


class RunOutput:
    """An output folder of a training.

    Every part raises :class:`MissingPartError` where the run lacks it, and what reading it raises where it is broken.

    Args:
        folder: ``train.output_dir`` of the run.
        overrides: of its ``config.yaml``, such as the place of the data on this machine.
        threshold: score from which a detection counts in ``matches``.

    Raises:
        NotADirectoryError: there is no such folder.
    """

    def __init__(self, folder: str | os.PathLike[str], overrides: Sequence[str] = (), *, threshold: float = 0.3):
        self.folder, self.threshold = Path(folder), threshold
        self._overrides = overrides
        if not self.folder.is_dir():
            raise NotADirectoryError(f"{folder}: no such folder; give the output folder of a training")

    @cached_property
    def curves(self) -> dict[str, tuple[list[int], list[float]]]:
        """Name -> (iterations, values) of ``metrics.json``."""
        return read_metrics(self._file("metrics.json", "it is written while a run trains"))

    @cached_property
    def log(self) -> str:
        """Text of ``log.txt``."""
        path = self._file("log.txt", "a run begins with it")
        return path.read_text(encoding="utf-8", errors="replace")

    @cached_property
    def config(self) -> DictConfig:
        """``config.yaml``, for this folder and any device."""
        cfg = load_config(self._file("config.yaml", "a training writes it, an evaluation does not"), self._overrides)
        OmegaConf.update(cfg, "train.output_dir", str(self.folder), force_add=True)
        OmegaConf.update(cfg, "train.device", "auto", force_add=True)
        return cfg

    @cached_property
    def data(self) -> ValidationData:
        """The validation data that the config names."""
        cfg = self.config.copy()
        try:
            name = prepare_data(cfg, train=False).test_name
        except (OSError, ValueError) as error:
            raise MissingPartError(
                f"the validation data cannot be read here: {error}. Where they lie elsewhere on this machine, add the "
                "override of their path to the command"
            ) from error
        classes, records = known_classes(name), DatasetCatalog.get(name)
        ids = category_ids(name) or tuple(range(len(classes)))
        objects = {r["image_id"]: [_object(a, ids) for a in r.get("annotations", ())] for r in records}
        names = dict(sorted(zip(ids, classes, strict=True)))
        return ValidationData({r["image_id"]: r["file_name"] for r in records}, names, objects)

    @cached_property
    def metrics(self) -> BoxMetrics:
        """Precision and recall of the last evaluation, as the evaluator found them."""
        return BoxMetrics.load(self._file(METRICS, "an evaluation writes it, and this run has had none"))

    @cached_property
    def detections(self) -> dict[int, list[dict[str, Any]]]:
        """Image id -> detections of the last evaluation in COCO's results format, best first."""
        data = self.data
        path = self._file(RESULTS, "an evaluation writes it, and this run has had none")
        with open_regular(path, "r") as file:
            entries = json.load(file)
        with contextlib.suppress(MissingPartError):
            evaluated = dict(zip(self.metrics.category_ids, self.metrics.class_names, strict=True))
            new_id = ids_by_name(evaluated, data.names, source=str(self.folder / METRICS))
            entries = [{**entry, "category_id": new_id[entry["category_id"]]} for entry in entries]
        strangers = {e["image_id"] for e in entries} - set(data.files)
        strangers |= {e["category_id"] for e in entries} - set(data.names)
        if strangers:
            raise MissingPartError(
                f"{RESULTS} is of another data set: it has the image or category id {min(strangers)}"
            )
        found: dict[int, list[dict[str, Any]]] = defaultdict(list)
        for entry in sorted(entries, key=lambda e: -e["score"]):
            found[entry["image_id"]].append(entry)
        return found

    @cached_property
    def matches(self) -> list[Match]:
        """Which of the detections with a score of ``threshold`` or more are which objects."""
        data, found = self.data, self.detections
        confident = {i: [d for d in found.get(i, ()) if d["score"] >= self.threshold] for i in data.files}
        return [match for i in data.files for match in match_image(i, data.objects[i], confident[i])]

    @cached_property
    def detector(self) -> Detector:
        """The trained model; its weights are those of ``model_final.pth``, or of the last checkpoint."""
        return Detector.from_config(self.config.copy(), self.weights)

    @property
    def weights(self) -> Path:
        """The final weights, averaged if they are, as evaluated; or the last checkpoint."""
        final, pointer = self.folder / "model_final_ema.pth", self.folder / "last_checkpoint"
        if not final.is_file():
            final = self.folder / "model_final.pth"
        if not final.is_file() and pointer.is_file():
            final = self.folder / pointer.read_text(encoding="utf-8").strip()
        if not final.is_file():
            raise MissingPartError(
                "the folder has no checkpoint: neither model_final.pth nor what last_checkpoint names"
            )
        return final

    def _file(self, name: str, origin: str) -> Path:
        path = self.folder / name
        if not path.is_file():
            raise MissingPartError(f"the folder has no {name}: {origin}")
        return path


def _object(annotation: Mapping[str, Any], ids: Sequence[int]) -> dict[str, Any]:
    box = BoxMode.convert(list(annotation["bbox"]), annotation["bbox_mode"], BoxMode.XYWH_ABS)
    return {"category_id": ids[annotation["category_id"]], "bbox": box, "iscrowd": annotation.get("iscrowd", 0)}


# ---------------------------------------------------------------------------------------------------------- log.txt
# label -> pattern of the line; the last one in the log counts, for a resumed run
_FACTS: Mapping[str, str] = {
    "Command": r"Command line: (.+)",
    "Model": r"Model (\S+: .+)",
    "Training data": r"detrex\.data\.registry INFO: (\S+_train: .+)",
    "Validation data": r"detrex\.data\.registry INFO: (\S+_val: .+)",
    "Schedule": r"Schedule: (.+)",
    "Learning rate": r"Learning rate: (.+)",
    "Host": r"Host: (.+)",
    "Device": r"Process 0 (of \d+ on .+)",
    "Operator": r"Operator backend: (.+)",
    "Training time": r"Total training time: (.+)",
    "Speed": r"Overall training speed: (.+)",
    "Evaluation": r"Total inference time: (.+)",
    "Peak memory": r"Peak memory at the end: (.+)",
}
_TIMESTAMP = re.compile(r"^(?:\x1b\[\d+m)?\[(\d\d/\d\d \d\d:\d\d:\d\d)", re.MULTILINE)


def log_facts(log: str) -> dict[str, str]:
    """Label -> value of everything that the log tells, and when it was first and last written to."""
    found = {}
    for label, pattern in _FACTS.items():
        matches = re.findall(pattern, log)
        if matches:
            found[label] = matches[-1].strip()
    if "Device" in found:
        number, _, device = found["Device"].removeprefix("of ").partition(" on ")
        found["Device"] = device if number == "1" else f"{number} processes, the first on {device}"
    times = _TIMESTAMP.findall(log)
    if times:
        found["Logged"] = f"{times[0]} to {times[-1]} (month/day)"
    starts = len(re.findall(_FACTS["Command"], log))
    if starts > 1:
        found["Logged"] = f"{found.get('Logged', '')}, started {starts} times"
    return found


def environment(log: str) -> str:
    """The last description of the software that the log holds; "" without one."""
    blocks = re.findall(r"Environment:\n(.*?)(?=^(?:\x1b\[\d+m)?\[\d\d/\d\d )", log, re.DOTALL | re.MULTILINE)
    return blocks[-1].strip() if blocks else ""
