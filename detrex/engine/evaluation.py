"""One evaluation path, for training and for ``--eval-only``: the same weights give the same digits."""

from __future__ import annotations

import difflib
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
from torch.utils.data import DataLoader

from detrex.config import ConfigError
from detrex.data import DatasetError, metric_names
from detrex.data.loader import evaluation_batches, shield_worker
from detrex.inference.optimizations import ONEDNN_CHOICES, OPTIMIZATIONS, optimize_model, parse_optimizations
from detrex.utils.regular_files import is_machine_fault

__all__ = ["EvaluationBatches", "check_metric", "evaluate", "finite_scalars"]

logger = logging.getLogger(__name__)


class EvaluationBatches:
    """The batches of a test loader, or the first of them.

    Its workers outlive the signals that a cluster sends to all processes of a job: one whose workers die would leave
    the others waiting for its share of the results.

    Args:
        loader: of test data.
        limit: number of batches; None for all.
    """

    def __init__(self, loader: Any, limit: int | None = None):
        self.loader, self.limit = loader, limit
        if isinstance(loader, DataLoader) and loader.worker_init_fn is None:
            loader.worker_init_fn = shield_worker

    def __len__(self) -> int:
        return len(self.loader) if self.limit is None else min(self.limit, len(self.loader))

    def __iter__(self) -> Iterator[Any]:
        return islice(evaluation_batches(self.loader), self.limit)


def evaluate(cfg: DictConfig, model: nn.Module, *, onednn: bool | None = None) -> dict[str, dict[str, float]]:
    """Run ``cfg.dataloader.evaluator`` over ``cfg.dataloader.test`` in float32 and print the ``copypaste:`` lines.

    Every process must call it; in several, each takes a share of the images.

    Args:
        cfg: of a run.
        model: to evaluate; may be wrapped in ``DistributedDataParallel``.
        onednn: whether its run sends linear layers through oneDNN; None: as ``train.optimizations.onednn_linear`` says.

    Returns:
        task -> metric -> value on the main process, {} elsewhere and where no evaluator is configured.

    Raises:
        DatasetError: the data cannot be read any more; ``EvaluationImageError`` if it is one image. MachineError: it is
            the machine's fault.
    """
    if cfg.dataloader.get("evaluator") is None:
        logger.info("No dataloader.evaluator in the config: nothing to evaluate")
        return {}
    if isinstance(model, DistributedDataParallel):
        model = model.module
    # The loader first: reading a data set fills in the category ids that COCOEvaluator looks up when it is built.
    try:
        loader = instantiate(cfg.dataloader.test)
        evaluator = instantiate(cfg.dataloader.evaluator)
    except (OSError, ValueError) as e:  # a registered data set is read again, and may have vanished
        if is_machine_fault(e):
            raise
        raise DatasetError(f"the evaluation cannot start: {e}") from e
    rehearsal = cfg.train.fast_dev_run
    loader = EvaluationBatches(loader, rehearsal.eval_batches if rehearsal.enabled else None)
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


def check_metric(cfg: DictConfig) -> None:
    """Check that ``train.checkpointer.best``, which early stopping watches too, will be measured.

    Args:
        cfg: of a run, its data prepared. An evaluator of another kind than :func:`detrex.data.build_coco_evaluator` is
            not known and not checked.

    Raises:
        ConfigError: it is not one of the evaluator's metrics; with the one that may be meant.
    """
    best, evaluator = cfg.train.checkpointer.best, cfg.dataloader.get("evaluator")
    target = None if evaluator is None else evaluator.get("_target_")
    if not best or getattr(target, "__qualname__", str(target)).rpartition(".")[2] != "build_coco_evaluator":
        return
    names = metric_names(evaluator.dataset_name)
    if best in names:
        return
    by_short_name = {name.partition("/")[2].lower(): name for name in names}
    close = difflib.get_close_matches(best.rpartition("/")[2].lower(), by_short_name, n=1)
    question = f"; did you mean {by_short_name[close[0]]}?" if close else "."
    raise ConfigError(
        f"train.checkpointer.best={best!r} is not a metric of the evaluation{question} It must be one of "
        f"{', '.join(names[:20])}{', ...' if len(names) > 20 else ''}, or empty to keep no best weights"
    )
