"""An exponential moving average of the weights, which is often the better detector (Polyak and Juditsky, 1992)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from detectron2.engine import HookBase
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from detrex.config.validation import ConfigError

__all__ = ["ModelEMA"]


class ModelEMA(HookBase):
    """Averages the parameters after every update; buffers are those of the model.

    After n updates the average moves by the share ``1 - min(decay, (1 + n) / (10 + n))`` towards the model, so that in
    a short or a young run it is not still near the weights of the beginning.

    To be registered in all processes, before what saves or evaluates.

    Args:
        model: the one that is trained, with its final layers; may be wrapped in ``DistributedDataParallel``.
        decay: in [0, 1).

    Raises:
        ConfigError: for another ``decay``.
    """

    def __init__(self, model: nn.Module, *, decay: float):
        if not 0 <= decay < 1:
            raise ConfigError(f"train.ema.decay={decay} must be at least 0 and below 1")
        self._source = model.module if isinstance(model, DistributedDataParallel) else model
        self._averaged, self._decay, self._updates = AveragedModel(self._source), decay, 0
        self._resumed: Mapping[str, Any] | None = None

    @property
    def model(self) -> nn.Module:
        """The averaged model."""
        return self._averaged.module

    def before_train(self) -> None:
        if self._resumed is not None:
            self._averaged = AveragedModel(self._source)  # anew: loading may have changed the layers of the model
            self._averaged.load_state_dict(self._resumed)
            self._resumed = None

    def after_step(self) -> None:
        self._averaged.multi_avg_fn = get_ema_multi_avg_fn(self.decay)
        self._averaged.update_parameters(self._source)
        self._updates += 1

    @property
    def decay(self) -> float:
        """The share that the average keeps of itself in the next update."""
        return min(self._decay, (1 + self._updates) / (10 + self._updates))

    def state_dict(self) -> dict[str, Any]:
        return {"updates": self._updates, "averaged": self._averaged.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._updates, self._resumed = state["updates"], state["averaged"]
