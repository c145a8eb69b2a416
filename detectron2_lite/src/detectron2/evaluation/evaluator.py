"""Running a model over a data set and handing its outputs to evaluators."""

import datetime
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableSequence, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from detectron2.utils.comm import get_world_size, is_main_process
from detectron2.utils.logger import log_every_n_seconds
from torch import nn

logger = logging.getLogger(__name__)

_WARMUP_BATCHES = 5


class DatasetEvaluator:
    """Collects the outputs of a model and turns them into results. Called as reset, process (often), evaluate."""

    def reset(self) -> None:
        """Forget what was collected."""

    def process(self, inputs: list, outputs: list) -> None:
        """Collect one batch: ``outputs`` = model(``inputs``), element by element."""

    def evaluate(self) -> dict | None:
        """Return ``{task: {metric: value}}``, or None on processes that have nothing to say."""


class DatasetEvaluators(DatasetEvaluator):
    """Several evaluators as one."""

    def __init__(self, evaluators: Sequence[DatasetEvaluator]) -> None:
        self._evaluators = evaluators

    def reset(self) -> None:
        for evaluator in self._evaluators:
            evaluator.reset()

    def process(self, inputs: list, outputs: list) -> None:
        for evaluator in self._evaluators:
            evaluator.process(inputs, outputs)

    def evaluate(self) -> dict:
        """Merge the results; AssertionError if two evaluators have the same task."""
        results = OrderedDict()
        for evaluator in self._evaluators:
            result = evaluator.evaluate()
            if is_main_process() and result is not None:
                for task, value in result.items():
                    assert task not in results, f"Two evaluators have results for {task!r}"
                    results[task] = value
        return results


class _Stopwatch:
    """Mean seconds per batch spent on data, computation and evaluation, warm-up batches aside."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.warmup = min(_WARMUP_BATCHES, total - 1)
        self.restart()

    def restart(self) -> None:
        self.start = time.perf_counter()
        self.spent = {"Dataloading": 0.0, "Inference": 0.0, "Eval": 0.0}

    @contextmanager
    def measure(self, what: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.spent[what] += time.perf_counter() - start

    def timed(self, data_loader: Iterable) -> Iterator[Any]:
        """The batches; the time of waiting for each counts as data loading."""
        start = time.perf_counter()
        for batch in data_loader:
            self.spent["Dataloading"] += time.perf_counter() - start
            yield batch
            start = time.perf_counter()

    def report(self, done: int) -> None:
        """Log the progress after ``done`` batches, at most every five seconds."""
        timed = done - self.warmup if done > self.warmup else done
        means = {what: seconds / timed for what, seconds in self.spent.items()}
        if done <= 2 * self.warmup and means["Inference"] <= 5:
            return
        mean = (time.perf_counter() - self.start) / timed
        parts = [f"{what}: {seconds:.4f} s/iter." for what, seconds in means.items()]
        eta = datetime.timedelta(seconds=int(mean * (self.total - done)))
        progress = f"Inference done {done}/{self.total}. {' '.join(parts)} Total: {mean:.4f} s/iter. ETA={eta}"
        log_every_n_seconds(logging.INFO, progress, n=5, name=__name__)

    def summarize(self, num_devices: int) -> None:
        batches = self.total - self.warmup

        def line(name: str, shown: Any, seconds: float) -> str:
            speed = f"{seconds / batches:.6f} s / iter per device, on {num_devices} devices"
            return f"Total inference {name}: {shown} ({speed})"

        elapsed, computing = time.perf_counter() - self.start, self.spent["Inference"]
        logger.info(line("time", datetime.timedelta(seconds=elapsed), elapsed))
        logger.info(line("pure compute time", datetime.timedelta(seconds=int(computing)), computing))


def inference_on_dataset(
    model: Callable[[Any], Any],
    data_loader: Any,
    evaluator: DatasetEvaluator | Sequence[DatasetEvaluator] | None,
    callbacks: Mapping[str, Callable[[], Any]] | None = None,
) -> dict:
    """Run a model over a data set in evaluation mode without gradients, and evaluate it.

    Args:
        model: maps a batch to outputs; a module is put into evaluation mode and back.
        data_loader: iterable with a length.
        evaluator: one, a list, or None to measure the speed only.
        callbacks: functions called "on_start", "before_inference", "after_inference" and "on_end".

    Returns:
        The result of ``evaluator.evaluate()``; {} for None.
    """
    callbacks = callbacks or {}

    def call_back(name: str) -> None:
        if name in callbacks:
            callbacks[name]()

    if evaluator is None or isinstance(evaluator, MutableSequence):
        evaluator = DatasetEvaluators(evaluator or [])
    evaluator.reset()
    total = len(data_loader)
    logger.info(f"Start inference on {total} batches")

    watch = _Stopwatch(total)
    with ExitStack() as stack:
        if isinstance(model, nn.Module):
            stack.enter_context(inference_context(model))
        stack.enter_context(torch.no_grad())
        call_back("on_start")
        for index, inputs in enumerate(watch.timed(data_loader)):
            if index == watch.warmup:
                watch.restart()
            with watch.measure("Inference"):
                call_back("before_inference")
                outputs = model(inputs)
                call_back("after_inference")
                if torch.cuda.is_available():
                    torch.cuda.synchronize()
            with watch.measure("Eval"):
                evaluator.process(inputs, outputs)
            watch.report(index + 1)
        call_back("on_end")
    watch.summarize(get_world_size())  # before evaluate(), which waits for the other processes
    results = evaluator.evaluate()
    return {} if results is None else results


@contextmanager
def inference_context(model: nn.Module) -> Iterator[None]:
    """Put a module into evaluation mode; its mode comes back in any case, also after an exception."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)
