"""The training step: forward, backward, checks, clipping, update; and what a checkpoint keeps of the loop."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from detectron2.engine import SimpleTrainer
from detectron2.utils import comm
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from detrex.checkpoint import CheckpointError, shard_optimizer_state
from detrex.utils.random_state import random_state, set_random_state

from .faults import explain, few, image_names, locate_non_finite, save_batch
from .gradients import accumulate_gradients, autocast, check_parts, split_batch
from .hooks import StoppedEarly
from .metrics import MetricWindow, PhaseTimer, to_host
from .writers import restore_metrics, saved_metrics

__all__ = ["Trainer"]

logger = logging.getLogger(__name__)

Batch = Sequence[Mapping[str, Any]]

_MAX_SAVED_BATCHES = 10


class Trainer(SimpleTrainer):
    """Minimises the plain sum of the losses that the model returns (they come weighted).

    A loss or gradient that is not finite never reaches the weights. Metrics of ``log_period`` iterations are written
    together; an iteration waits for the device once, before the update.

    A checkpoint holds the optimizer, the loss scale, the hooks' state, the metrics that the next ones depend on and,
    of every process, the random generators and the position in the data: a resumed run is the run that never stopped.

    Args:
        model: ``model(list[dict])`` -> dict of scalar losses in training mode; may be wrapped in
            ``DistributedDataParallel``.
        data_loader: yields ``list[dict]`` for ever; with ``state_dict`` and ``load_state_dict`` it resumes too.
        optimizer: over the model's parameters.
        device: where the model lives.
        clip_grad: arguments of ``torch.nn.utils.clip_grad_norm_`` (``max_norm``, ``norm_type``), or None.
        amp_dtype: "bfloat16" or "float16" (with loss scaling) for the forward pass, or None for float32.
        accumulate: parts that a batch is worked through in, one after the other, for the same update with less memory;
            above 1 the model takes ``whole_batch``, see :class:`detrex.modeling.batching.WholeBatch`.
        log_period: iterations between two writes of the metrics.
        max_skips: number of consecutive non-finite steps to skip before aborting.
        output_dir: where their batches are saved, the first ten of a process.
        frozen: modules to keep in evaluation mode, see ``train.freeze``.

    Raises:
        ConfigError: an unknown ``amp_dtype``; a model that cannot ``accumulate``.
        FloatingPointError: from a step whose loss or gradient norm is not finite; names the iteration, the losses, the
            layer and the image files of the batch.
        MachineError: from a step for which the memory did not suffice, or whose data worker died.
    """

    def __init__(
        self,
        model: nn.Module,
        data_loader: Iterable[Batch],
        optimizer: torch.optim.Optimizer,
        *,
        device: torch.device,
        clip_grad: Mapping[str, float] | None = None,
        amp_dtype: str | None = None,
        accumulate: int = 1,
        log_period: int = 20,
        max_skips: int = 0,
        output_dir: str = ".",
        frozen: Iterable[nn.Module] = (),
    ):
        autocast(device, amp_dtype)
        check_parts(model, accumulate)
        super().__init__(model, data_loader, optimizer)
        for module in frozen:
            module.eval()
        self.device, self.accumulate = device, accumulate
        self.clip_grad = dict(clip_grad) if clip_grad is not None else None
        self.autocast = partial(autocast, device, amp_dtype)
        self.log_period, self.max_skips, self.output_dir = log_period, max_skips, output_dir
        self.scaler = torch.amp.GradScaler(device.type, enabled=amp_dtype == "float16")
        self._parameters = [p for group in optimizer.param_groups for p in group["params"]]
        self._window = MetricWindow()
        self._skipped_in_a_row, self._skipped = 0, 0
        self._batch: Batch | None = None
        self._resumed: Mapping[str, Any] | None = None

    def train(self, start_iter: int, max_iter: int) -> None:
        """Run the steps ``start_iter`` to ``max_iter - 1``; a lack of memory or a lost worker shows at any moment."""
        try:
            super().train(start_iter, max_iter)
        except StoppedEarly:
            return
        except (RuntimeError, MemoryError, EOFError, OSError) as e:
            explained = explain(e, f"iteration {self.iter}", self._batch, device=self.device)
            if explained is None:
                raise
            raise explained from e

    def run_step(self) -> None:
        """One iteration."""
        timer = PhaseTimer(self.device)
        with timer.phase("data_time", host=True):
            self._batch = next(self._data_loader_iter)
        self._step(self._batch, timer)
        self._batch = None
        if (self.iter + 1) % self.log_period == 0 or self.iter + 1 == self.max_iter:
            self._window.flush(self.storage)
            if comm.is_main_process():
                self.storage.put_scalars(**self._counts(), smoothing_hint=False)

    def _step(self, data: Batch, timer: PhaseTimer) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        parts = split_batch(data, self.accumulate)
        losses = accumulate_gradients(self.model, parts, context=self.autocast, scale=self.scaler.scale, timer=timer)
        with timer.phase("backward_time"):
            self.after_backward()
            norm = self._clip()
        values = to_host({**losses, "grad_norm": norm})
        with timer.phase("optimizer_time"):
            if self._may_update(values, data):
                self.scaler.step(self.optimizer)
            self.scaler.update()
        self._window.add(self.iter, values, timer)

    def _clip(self) -> Tensor:
        """Unscale the gradients, and clip them if so configured; their norm before that."""
        self.scaler.unscale_(self.optimizer)
        if self.clip_grad is not None:
            norm = nn.utils.clip_grad_norm_(self._parameters, **self.clip_grad)
        else:
            norm = nn.utils.get_total_norm([p.grad for p in self._parameters if p.grad is not None])
        return norm.full_tensor() if isinstance(norm, DTensor) else norm

    def _may_update(self, values: Mapping[str, float], data: Batch) -> bool:
        """Whether all is finite; counts, reports and at last refuses steps that are not."""
        bad = [name for name, value in values.items() if not math.isfinite(value)]
        if not bad:
            self._skipped_in_a_row = 0
            return True
        if self.scaler.is_enabled() and bad == ["grad_norm"]:
            return True  # the loss scale was too large: the scaler lowers it and leaves this step out by itself
        self._skipped_in_a_row += 1
        self._skipped += 1
        message = self._describe(bad, values, data)
        if self._skipped_in_a_row > self.max_skips:
            skipped = f"{self.max_skips} such steps in a row were skipped before. " if self.max_skips else ""
            raise FloatingPointError(
                f"{message}. {skipped}No such batch has changed the weights. Look at these images, lower optimizer.lr, "
                "enable train.clip_grad, or skip more with train.max_skips"
            )
        logger.warning("%s. Skipped, %d in a row", message, self._skipped_in_a_row)
        return False

    def _describe(self, bad: Sequence[str], values: Mapping[str, float], data: Batch) -> str:
        kind = "gradient" if bad == ["grad_norm"] else "loss"
        names = ", ".join(name for name in bad if name != "grad_norm") or "grad_norm"
        every = ", ".join(f"{name}={value:.4g}" for name, value in values.items())
        layer = locate_non_finite(self.model, split_batch(data, self.accumulate), self.autocast)
        saved = "not saved, there are ten"
        if self._skipped <= _MAX_SAVED_BATCHES:
            saved = save_batch(self.output_dir, data, iteration=self.iter, values=values)
        return (
            f"{kind} is not finite at iteration {self.iter}: {names}; all losses: {every}; layer: {layer}; batch: "
            f"{saved}; images: {image_names(data)}"
        )

    def _counts(self) -> dict[str, float]:
        counts = {"skipped_steps": self._skipped, "broken_images": len(getattr(self.data_loader, "broken_images", ()))}
        return {name: float(count) for name, count in counts.items() if count}

    # ------------------------------------------------------------------------------------------------ checkpoints
    def before_train(self) -> None:
        """Put the process into the state that it was saved in, then let the hooks begin."""
        if self._resumed is not None:
            restore_metrics(self.storage, self._resumed["metrics"])
            if self._resumed["layers"] != self._layers():  # of the model as everything that was loaded has left it
                logger.warning(
                    "Other layers compute than when the run was saved, for example by another train.optimizations: "
                    "from here on the run is the same up to rounding only"
                )
            if self._own_state() is not None:
                set_random_state(self._own_state()["random"])
        super().before_train()

    def after_train(self) -> None:
        self.iter = min(self.iter, self.max_iter)  # upstream counts one too many when nothing was left to do
        batches, self._data_loader_iter_obj = self._data_loader_iter_obj, None
        if hasattr(batches, "close"):
            batches.close()  # ends the data workers
        super().after_train()

    def state_dict(self) -> dict[str, Any]:
        """State of the loop, the optimizer, the loss scale, the metrics and, in the first process, of every process.

        Called by all processes at the same iteration.
        """
        state = super().state_dict()
        state["iteration"] = min(self.iter, getattr(self, "max_iter", math.inf) - 1)  # after the loop, iter is max_iter
        if self.scaler.is_enabled():
            state["grad_scaler"] = self.scaler.state_dict()
        own = {"random": random_state()}
        if hasattr(self.data_loader, "state_dict"):
            own["loader"] = self.data_loader.state_dict()
        state["processes"] = comm.gather(own)
        state["layers"], state["trained"] = self._layers(), self._trained()
        state["skipped"] = (self._skipped_in_a_row, self._skipped)
        state["metrics"] = {}
        if hasattr(self, "storage"):
            self._window.flush(self.storage)
            state["metrics"] = saved_metrics(self.storage)
        return state

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Inverse of :meth:`state_dict`; a run may change its precision and its number of processes when it resumes.

        Raises:
            CheckpointError: the run trained other parameters.
        """
        differ = sorted({*state_dict.get("trained", self._trained())} ^ {*self._trained()})
        if differ:
            raise CheckpointError(
                f"the run to resume trained other parameters, they differ in {few(differ)}: resume it with its own "
                "train.freeze, or start a new run from its weights with train.init_checkpoint"
            )
        super().load_state_dict(state_dict)
        shard_optimizer_state(self.optimizer)
        if self.scaler.is_enabled() and "grad_scaler" in state_dict:
            self.scaler.load_state_dict(state_dict["grad_scaler"])
        if "processes" not in state_dict:
            logger.warning("The checkpoint is of an older version: the data and the random numbers start anew")
            return
        self._resumed = state_dict
        self._skipped_in_a_row, self._skipped = state_dict["skipped"]
        if self._own_state() is None:
            logger.warning(
                "Saved by %d processes, resumed by %d: random numbers start anew",
                len(state_dict["processes"]),
                comm.get_world_size(),
            )
        loader = (self._own_state() or state_dict["processes"][0]).get("loader")
        if loader is not None and hasattr(self.data_loader, "load_state_dict"):
            self.data_loader.load_state_dict(loader)
        else:
            logger.warning(
                "The position in the data is not restored; use detrex.data.build_train_loader in dataloader.train"
            )

    def _layers(self) -> dict[str, int]:
        names = (type(module).__qualname__.removeprefix("FSDP") for module in self._module.modules())  # as without it
        return dict(Counter(names))

    def _trained(self) -> list[str]:
        return [name for name, parameter in self._module.named_parameters() if parameter.requires_grad]

    @property
    def _module(self) -> nn.Module:
        return self.model.module if isinstance(self.model, DistributedDataParallel) else self.model

    def _own_state(self) -> Mapping[str, Any] | None:
        """What this process saved of itself, if the run has as many processes as then."""
        processes = self._resumed["processes"]
        return processes[comm.get_rank()] if len(processes) == comm.get_world_size() else None
