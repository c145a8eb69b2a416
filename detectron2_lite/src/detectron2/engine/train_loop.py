"""The training loop."""

import concurrent.futures
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from detectron2.utils import comm
from detectron2.utils.events import get_event_storage
from torch import Tensor, nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

from ._trainer_base import HookBase, TrainerBase, logger

__all__ = ["AMPTrainer", "HookBase", "SimpleTrainer", "TrainerBase"]


class SimpleTrainer(TrainerBase):
    """One model, one optimizer, one stream of data: per step forward, backward and update.

    To do something around a part, wrap that part: the data loader, the model, or the optimizer's ``step``.

    Args:
        model: from a batch to a dict of losses, or to one loss; put into training mode here.
        data_loader: an endless iterable of batches; iterated from the first step on.
        optimizer: a torch optimizer.
        gather_metric_period: every how many iterations the losses are gathered from all processes and stored.
        zero_grad_before_forward: zero the gradients before the forward pass rather than before the backward pass.
        async_write_metrics: store the metrics in a thread, which spares waiting for the device; a loss that is not
            finite then stops training one step later.
    """

    def __init__(
        self,
        model: nn.Module,
        data_loader: Iterable[Any],
        optimizer: torch.optim.Optimizer,
        gather_metric_period: int = 1,
        zero_grad_before_forward: bool = False,
        async_write_metrics: bool = False,
    ) -> None:
        super().__init__()
        model.train()
        self.model = model
        self.data_loader = data_loader
        self._data_loader_iter_obj: Iterator[Any] | None = None
        self.optimizer = optimizer
        self.gather_metric_period = gather_metric_period
        self.zero_grad_before_forward = zero_grad_before_forward
        self.async_write_metrics = async_write_metrics
        self._executor = concurrent.futures.ThreadPoolExecutor(max_workers=1)  # in order of submission
        self._pending: concurrent.futures.Future[None] | None = None

    def run_step(self) -> None:
        assert self.model.training, f"[{type(self).__name__}] model was changed to eval mode!"
        start = time.perf_counter()
        data = next(self._data_loader_iter)
        data_time = time.perf_counter() - start

        if self.zero_grad_before_forward:
            self.optimizer.zero_grad()
        loss_dict = self._forward(data)
        if isinstance(loss_dict, Tensor):
            loss_dict = {"total_loss": loss_dict}
        losses = sum(loss_dict.values())
        if not self.zero_grad_before_forward:
            self.optimizer.zero_grad()
        self._backward(losses)
        self.after_backward()
        if self.async_write_metrics:
            self._finish_metrics()
            self._pending = self._executor.submit(self._write_metrics, loss_dict, data_time, iter=self.iter)
        else:
            self._write_metrics(loss_dict, data_time)
        self._update()

    def _forward(self, data: Any) -> Tensor | dict[str, Tensor]:
        return self.model(data)

    def _backward(self, losses: Tensor) -> None:
        losses.backward()

    def _update(self) -> None:
        self.optimizer.step()

    @property
    def _data_loader_iter(self) -> Iterator[Any]:
        if self._data_loader_iter_obj is None:
            self._data_loader_iter_obj = iter(self.data_loader)
        return self._data_loader_iter_obj

    def reset_data_loader(self, data_loader_builder: Callable[[], Iterable[Any]]) -> None:
        """Replace the data loader by what ``data_loader_builder()`` returns, after the old one was dropped."""
        del self.data_loader
        self._data_loader_iter_obj = None
        self.data_loader = data_loader_builder()

    def _finish_metrics(self) -> None:
        """Wait for the metrics of the previous step, and raise what their thread raised."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def after_step(self) -> None:
        if self.iter + 1 == self.max_iter:
            self._finish_metrics()  # before a hook saves or evaluates the final model
        super().after_step()

    def after_train(self) -> None:
        super().after_train()
        self._executor.shutdown(wait=True)

    def _write_metrics(
        self, loss_dict: Mapping[str, Tensor], data_time: float, prefix: str = "", iter: int | None = None
    ) -> None:
        iter = self.iter if iter is None else iter
        if (iter + 1) % self.gather_metric_period == 0:
            SimpleTrainer.write_metrics(loss_dict, data_time, iter, prefix)

    @staticmethod
    def write_metrics(loss_dict: Mapping[str, Tensor], data_time: float, cur_iter: int, prefix: str = "") -> None:
        """Average the losses of all processes and store them on rank 0, with their sum as "total_loss".

        Args:
            loss_dict: scalars.
            data_time: seconds waited for the data; the largest of all processes is stored.
            cur_iter: the iteration that the values belong to.
            prefix: in front of "total_loss".

        Raises:
            FloatingPointError: (on rank 0) the sum is not finite.
        """
        storage = get_event_storage()
        storage.put_scalar("rank_data_time", data_time, cur_iter=cur_iter)
        losses = {name: value.detach().item() for name, value in loss_dict.items()}
        gathered = comm.gather((losses, data_time))
        if not comm.is_main_process():
            return
        storage.put_scalar("data_time", max(seconds for _, seconds in gathered), cur_iter=cur_iter)
        means = {name: sum(values[name] for values, _ in gathered) / len(gathered) for name in losses}
        total = sum(means.values())
        if not math.isfinite(total):
            raise FloatingPointError(f"The loss is not finite at iteration {cur_iter}: {means}")
        storage.put_scalar(f"{prefix}total_loss", total, cur_iter=cur_iter)
        if len(means) > 1:
            storage.put_scalars(cur_iter=cur_iter, **means)

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self.optimizer.load_state_dict(state_dict["optimizer"])


class AMPTrainer(SimpleTrainer):
    """:class:`SimpleTrainer` with automatic mixed precision, on the device of the model.

    Args:
        grad_scaler: a ``torch.amp.GradScaler``; by default a new one.
        precision: what autocast computes in, torch.float16 or torch.bfloat16.
        log_grad_scaler: store the scale as "[metric]grad_scaler".
        model, data_loader, optimizer, gather_metric_period, zero_grad_before_forward, async_write_metrics: as in
            SimpleTrainer.
    """

    def __init__(
        self,
        model: nn.Module,
        data_loader: Iterable[Any],
        optimizer: torch.optim.Optimizer,
        gather_metric_period: int = 1,
        zero_grad_before_forward: bool = False,
        grad_scaler: torch.amp.GradScaler | None = None,
        precision: torch.dtype = torch.float16,
        log_grad_scaler: bool = False,
        async_write_metrics: bool = False,
    ) -> None:
        several = isinstance(model, DistributedDataParallel) and len(model.device_ids or ()) > 1
        if several or isinstance(model, DataParallel):
            raise ValueError("AMPTrainer needs one device per process")
        super().__init__(
            model, data_loader, optimizer, gather_metric_period, zero_grad_before_forward, async_write_metrics
        )
        self._device_type = next((parameter.device.type for parameter in model.parameters()), "cpu")
        self.grad_scaler = torch.amp.GradScaler(self._device_type) if grad_scaler is None else grad_scaler
        self.precision = precision
        self.log_grad_scaler = log_grad_scaler

    def _forward(self, data: Any) -> Tensor | dict[str, Tensor]:
        with torch.autocast(self._device_type, dtype=self.precision):
            return self.model(data)

    def _backward(self, losses: Tensor) -> None:
        self.grad_scaler.scale(losses).backward()
        if self.log_grad_scaler:
            self.storage.put_scalar("[metric]grad_scaler", self.grad_scaler.get_scale())

    def _update(self) -> None:
        self.grad_scaler.step(self.optimizer)
        self.grad_scaler.update()

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "grad_scaler": self.grad_scaler.state_dict()}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        super().load_state_dict(state_dict)
        if "grad_scaler" in state_dict:
            self.grad_scaler.load_state_dict(state_dict["grad_scaler"])
        else:
            logger.warning("The checkpoint comes from training without a gradient scaler: it starts anew.")
