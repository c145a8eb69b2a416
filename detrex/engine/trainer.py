"""The training step: forward, checks, backward, clipping, update."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from detectron2.engine import SimpleTrainer
from torch import Tensor, nn

from detrex.config_check import ConfigError

from .metrics import HostCopy, MetricWindow, PhaseTimer

__all__ = ["Trainer"]

_DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}


class Trainer(SimpleTrainer):
    """Minimises the plain sum of the losses that the model returns (they come weighted).

    A loss that is not finite stops the run before it reaches the weights. Metrics of ``log_period`` iterations are
    written together, so that an iteration costs no extra synchronisation of the device.

    Args:
        model: ``model(list[dict])`` -> dict of scalar losses in training mode; may be wrapped in
            ``DistributedDataParallel``.
        data_loader: yields ``list[dict]`` for ever.
        optimizer: over the model's parameters.
        device: where the model lives.
        clip_grad: arguments of ``torch.nn.utils.clip_grad_norm_`` (``max_norm``, ``norm_type``), or None.
        amp_dtype: "bfloat16" or "float16" (with loss scaling) for the forward pass, or None for float32.
        log_period: iterations between two writes of the metrics.

    Raises:
        ConfigError: an unknown ``amp_dtype``.
        FloatingPointError: from a step whose loss or gradient norm is not finite; names the iteration, the losses and
            the image files of the batch.
    """

    def __init__(
        self,
        model: nn.Module,
        data_loader: Iterable[Sequence[Mapping[str, Any]]],
        optimizer: torch.optim.Optimizer,
        *,
        device: torch.device,
        clip_grad: Mapping[str, float] | None = None,
        amp_dtype: str | None = None,
        log_period: int = 20,
    ):
        if amp_dtype is not None and amp_dtype not in _DTYPES:
            raise ConfigError(f"train.amp.dtype={amp_dtype!r} must be one of {', '.join(_DTYPES)}")
        super().__init__(model, data_loader, optimizer)
        self.device = device
        self.clip_grad = dict(clip_grad) if clip_grad is not None else None
        self.amp_dtype = _DTYPES[amp_dtype] if amp_dtype is not None else None
        self.log_period = log_period
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.amp_dtype == torch.float16)
        self._parameters = [p for group in optimizer.param_groups for p in group["params"]]
        self._window = MetricWindow()

    def run_step(self) -> None:
        """One iteration."""
        timer = PhaseTimer(self.device)
        with timer.phase("data_time", host=True):
            data = next(self._data_loader_iter)
        with timer.phase("forward_time"):
            losses, total = self._forward(data)
        on_host = HostCopy({"total_loss": total, **losses})
        self.optimizer.zero_grad(set_to_none=True)
        with timer.phase("backward_time"):
            self.scaler.scale(total).backward()
            if hasattr(self, "after_backward"):
                self.after_backward()
        values = on_host.read()
        if not all(math.isfinite(value) for value in values.values()):
            raise self._not_finite(values, data)
        with timer.phase("optimizer_time"):
            norms = self._update()

        self._window.add(self.iter, values, norms, timer)
        if (self.iter + 1) % self.log_period == 0 or self.iter + 1 == self.max_iter:
            self._check_gradients()
            self._window.flush()

    def _forward(self, data: Sequence[Mapping[str, Any]]) -> tuple[dict[str, Tensor], Tensor]:
        with torch.autocast(self.device.type, dtype=self.amp_dtype, enabled=self.amp_dtype is not None):
            losses = self.model(data)
        if not isinstance(losses, Mapping) or not losses:
            raise TypeError(f"a model in training mode must return a dict of losses, not {losses!r}")
        return dict(losses), sum(losses.values())

    def _update(self) -> dict[str, Tensor]:
        metrics = {}
        if self.clip_grad is not None:
            self.scaler.unscale_(self.optimizer)
            metrics["grad_norm"] = nn.utils.clip_grad_norm_(self._parameters, **self.clip_grad)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return metrics

    def _check_gradients(self) -> None:
        """Raise FloatingPointError if a gradient since the last write was not finite; waits for the device.

        Loss scaling skips such steps by itself, so with float16 there is nothing to check.
        """
        if self.scaler.is_enabled():
            return
        for iteration, scalars in self._window.latest_device_scalars():
            if not all(torch.isfinite(value) for value in scalars.values()):
                raise FloatingPointError(
                    f"the gradient is not finite at iteration {iteration}, though the loss was; the weights in memory "
                    "are spoilt and are not saved. Go on from the last checkpoint with a lower optimizer.lr"
                )

    def _not_finite(self, values: Mapping[str, float], data: Sequence[Mapping[str, Any]]) -> FloatingPointError:
        try:
            self._check_gradients()  # an earlier gradient may be the cause
        except FloatingPointError as cause:
            return cause
        images = ", ".join(str(x.get("file_name", x.get("image_id", "?"))) for x in data)
        bad = ", ".join(name for name, value in values.items() if not math.isfinite(value))
        every = ", ".join(f"{name}={value:.4g}" for name, value in values.items())
        return FloatingPointError(
            f"loss is not finite at iteration {self.iter}: {bad}; all losses: {every}; images: {images}. This batch "
            "has not changed the weights. Look at these images, lower optimizer.lr, or enable train.clip_grad"
        )

    def state_dict(self) -> dict[str, Any]:
        """State of the loop, the optimizer and, with float16, the loss scale; refuses to save spoilt weights."""
        self._check_gradients()
        state = super().state_dict()
        if self.scaler.is_enabled():
            state["grad_scaler"] = self.scaler.state_dict()
        return state

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Inverse of :meth:`state_dict`; a run may change its precision when it resumes."""
        super().load_state_dict(state_dict)
        if self.scaler.is_enabled() and "grad_scaler" in state_dict:
            self.scaler.load_state_dict(state_dict["grad_scaler"])
