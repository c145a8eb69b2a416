"""One evaluation path, for training and for ``--eval-only``: the same weights give the same digits."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from itertools import islice
from typing import Any

from detectron2.config import instantiate
from detectron2.evaluation import inference_on_dataset, print_csv_format
from detectron2.evaluation.testing import flatten_results_dict
from detectron2.utils import comm
from omegaconf import DictConfig
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from detrex.inference.optimizations import ONEDNN_CHOICES, OPTIMIZATIONS, optimize_model, parse_optimizations

__all__ = ["FirstBatches", "evaluate", "finite_scalars"]

logger = logging.getLogger(__name__)


class FirstBatches:
    """The first ``num_batches`` of a loader, with a length."""

    def __init__(self, loader: Any, num_batches: int):
        self.loader, self.num_batches = loader, num_batches

    def __len__(self) -> int:
        return min(self.num_batches, len(self.loader))

    def __iter__(self) -> Iterator[Any]:
        return islice(iter(self.loader), len(self))


def evaluate(cfg: DictConfig, model: nn.Module, *, onednn: bool | None = None) -> dict[str, dict[str, float]]:
    """Run ``cfg.dataloader.evaluator`` over ``cfg.dataloader.test`` in float32 and print the ``copypaste:`` lines.

    Every process must call it; in several, each takes a share of the images.

    Args:
        cfg: of a run.
        model: to evaluate; may be wrapped in ``DistributedDataParallel``.
        onednn: whether its run sends linear layers through oneDNN; None: as ``train.optimizations.onednn_linear`` says.

    Returns:
        task -> metric -> value on the main process, {} elsewhere and where no evaluator is configured.
    """
    if cfg.dataloader.get("evaluator") is None:
        logger.info("No dataloader.evaluator in the config: nothing to evaluate")
        return {}
    if isinstance(model, DistributedDataParallel):
        model = model.module
    # The loader first: reading a data set fills in the category ids that COCOEvaluator looks up when it is built.
    loader = instantiate(cfg.dataloader.test)
    evaluator = instantiate(cfg.dataloader.evaluator)
    rehearsal = cfg.train.fast_dev_run
    if rehearsal.enabled:
        loader = FirstBatches(loader, rehearsal.eval_batches)
    optimizations = cfg.train.optimizations
    if onednn is None:
        onednn = ONEDNN_CHOICES[optimizations.onednn_linear]()
    model = optimize_model(model, parse_optimizations(optimizations.evaluation, OPTIMIZATIONS), onednn=onednn)
    results = inference_on_dataset(model, loader, evaluator)
    if comm.is_main_process():
        print_csv_format(results)
    return results


def finite_scalars(results: dict[str, Any]) -> dict[str, float]:
    """Results as ``task/metric`` -> value, without the undefined ones: NaN is not JSON."""
    flat = flatten_results_dict(results)
    return {key: float(value) for key, value in flat.items() if math.isfinite(float(value))}
