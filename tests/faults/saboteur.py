"""A detector that brings faults about from within a run, where the config says so."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from copy import deepcopy
from pathlib import Path

import torch
from detectron2.utils import comm
from stub_detector import StubDetector, make_data, write_config
from torch import Tensor, nn

from detrex.modeling.batching import WholeBatch


class Spoil(torch.autograd.Function):
    """The identity, whose gradient is NaN."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        return gradient * float("nan")


class Saboteur(StubDetector):
    """A stub with dropout, so that the random numbers of the process count.

    Args:
        nan_images: base names of images whose loss is NaN. nan_gradients: whose gradient alone is NaN.
        break_images: paths, relative to the images, of files that are cut off in training forward number ``at``.
        exhaust_memory: ask for more than there is in training forward number ``at``.
        fault: what happens to process ``rank`` in training forward number ``at``: "raise", "hang" or a signal's name.
        at: counted from 0 in this process.
        stop_evaluation: process ``rank`` and its data workers get SIGTERM, as from a cluster, in its first evaluation.
    """

    def __init__(
        self,
        *,
        num_classes: int = 80,
        nan_images: tuple[str, ...] = (),
        nan_gradients: tuple[str, ...] = (),
        break_images: tuple[str, ...] = (),
        exhaust_memory: bool = False,
        fault: str = "",
        rank: int = 0,
        at: int = 0,
        stop_evaluation: bool = False,
    ):
        super().__init__(num_classes=num_classes)
        self.norm = nn.Sequential(self.norm, nn.Dropout(0.2))
        self.nan_images, self.nan_gradients, self.break_images = set(nan_images), set(nan_gradients), break_images
        self.exhaust_memory, self.fault, self.rank, self.at = exhaust_memory, fault, rank, at
        self.stop_evaluation = [stop_evaluation]  # a list, which a copy of the model shares

    def __deepcopy__(self, memo: dict) -> Saboteur:
        memo[id(self.stop_evaluation)] = self.stop_evaluation
        copy = type(self).__new__(type(self))
        memo[id(self)] = copy
        copy.__dict__.update(deepcopy(self.__dict__, memo))
        return copy

    def forward(self, inputs: list[dict], whole_batch: WholeBatch | None = None) -> dict[str, Tensor] | list[dict]:
        if not self.training and self.stop_evaluation[0] and self.rank == comm.get_rank():
            self.stop_evaluation[0] = False
            # From another process: workers obey their parent.
            subprocess.run(["kill", "-TERM", "--", f"-{os.getpgrp()}"], check=False)
            time.sleep(0.5)
        return super().forward(inputs, whole_batch)

    def _losses(self, boxes: Tensor, logits: Tensor, inputs: list[dict]) -> dict[str, Tensor]:
        names = {os.path.basename(x["file_name"]) for x in inputs}
        if self.calls == self.at:
            for name in self.break_images:
                path = Path(inputs[0]["file_name"]).parent / name
                path.write_bytes(path.read_bytes()[:100])
            if self.exhaust_memory:
                torch.empty(2**50)
            if self.fault and self.rank == comm.get_rank():
                self._suffer()
        losses = super()._losses(boxes, logits, inputs)
        if names & self.nan_images:
            losses["loss_class"] = losses["loss_class"] * float("nan")
        if names & self.nan_gradients:
            losses["loss_bbox"] = Spoil.apply(losses["loss_bbox"])
        return losses

    def _suffer(self) -> None:
        if self.fault == "raise":
            raise ValueError("the saboteur's error")
        if self.fault == "hang":
            time.sleep(1000)
        os.kill(os.getpid(), getattr(signal, self.fault))


CONFIG = """
import detectron2.data.transforms as T
from detectron2.config import LazyCall as L
from saboteur import Saboteur

from .config import dataloader, lr_multiplier, model, optimizer, train

dataloader.train.mapper.augmentation = [L(T.RandomFlip)()]
dataloader.train.num_workers = {num_workers}
dataloader.data.val_image_root, dataloader.data.val_json = {val!r}, {val_json!r}
model._target_ = Saboteur
train.optimizations.training = ["channels_last"]  # the other optimization may choose otherwise the next time
train.max_iter = 36
train.eval_period = 12
train.log_period = 5
train.checkpointer.period = 4
train.checkpointer.max_to_keep = 3
"""


def write_sabotage_config(folder: Path, *, num_workers: int = 0) -> Path:
    """Like ``write_config``, with a :class:`Saboteur` and augmentation; twelve epochs of three iterations."""
    write_config(folder)
    val = folder / "val"
    val.mkdir()
    path = folder / "sabotage.py"
    path.write_text(CONFIG.format(num_workers=num_workers, val=str(val), val_json=str(make_data(val, seed=1))))
    return path
