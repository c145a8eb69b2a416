"""The storage of metrics, and the stack of storages in use."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import torch
from fvcore.common.history_buffer import HistoryBuffer

_CURRENT_STORAGE_STACK: list[EventStorage] = []


def get_event_storage() -> EventStorage:
    """The innermost storage in use.

    Raises:
        AssertionError: outside of any ``with EventStorage(...)``.
    """
    assert _CURRENT_STORAGE_STACK, "get_event_storage() needs an active `with EventStorage()` around it"
    return _CURRENT_STORAGE_STACK[-1]


def has_event_storage() -> bool:
    """Whether a storage is in use."""
    return bool(_CURRENT_STORAGE_STACK)


class EventStorage:
    """Scalars by name with their history, and images and histograms until a writer has taken them.

    In use within ``with EventStorage(start_iter) as storage:``.

    Args:
        start_iter: the iteration to begin with.
    """

    def __init__(self, start_iter: int = 0) -> None:
        self._history: dict[str, HistoryBuffer] = defaultdict(HistoryBuffer)
        self._smoothing_hints: dict[str, bool] = {}
        self._latest_scalars: dict[str, tuple[float, int]] = {}
        self._iter = start_iter
        self._current_prefix = ""
        # Read by writers, those of other libraries included.
        self._vis_data: list[tuple[str, Any, int]] = []
        self._histograms: list[dict[str, Any]] = []

    def put_image(self, img_name: str, img_tensor: Any) -> None:
        """Keep an image for the writers: (3, H, W), RGB, uint8 or float in [0, 1]."""
        self._vis_data.append((img_name, img_tensor, self._iter))

    def put_scalar(self, name: str, value: float, smoothing_hint: bool = True, cur_iter: int | None = None) -> None:
        """Add a value to the history of ``name``.

        Args:
            name: the metric; the current :meth:`name_scope` is put in front.
            value: anything that ``float`` accepts.
            smoothing_hint: whether writers should show a running median. Must not change for a name.
            cur_iter: the iteration of the value, by default the current one.

        Raises:
            AssertionError: another ``smoothing_hint`` than before.
        """
        name = self._current_prefix + name
        hint = self._smoothing_hints.setdefault(name, smoothing_hint)
        assert hint == smoothing_hint, f"Scalar {name} was put with smoothing_hint={hint} before!"
        value, iteration = float(value), self._iter if cur_iter is None else cur_iter
        self._history[name].update(value, iteration)
        self._latest_scalars[name] = (value, iteration)

    def put_scalars(self, *, smoothing_hint: bool = True, cur_iter: int | None = None, **kwargs: float) -> None:
        """:meth:`put_scalar` for several names."""
        for name, value in kwargs.items():
            self.put_scalar(name, value, smoothing_hint=smoothing_hint, cur_iter=cur_iter)

    def put_histogram(self, hist_name: str, hist_tensor: torch.Tensor, bins: int = 1000) -> None:
        """Keep the histogram of a tensor of any shape, in the form of ``SummaryWriter.add_histogram_raw``."""
        values = hist_tensor.detach().float().flatten().cpu()
        low, high = values.min().item(), values.max().item()
        self._histograms.append(
            {
                "tag": hist_name,
                "min": low,
                "max": high,
                "num": values.numel(),
                "sum": values.sum().item(),
                "sum_squares": values.square().sum().item(),
                "bucket_limits": torch.linspace(low, high, bins + 1)[1:].tolist(),
                "bucket_counts": torch.histc(values, bins=bins).tolist(),
                "global_step": self._iter,
            }
        )

    def history(self, name: str) -> HistoryBuffer:
        """All values of a scalar. Raises KeyError for an unknown name."""
        if name not in self._history:
            raise KeyError(f"No history metric available for {name}!")
        return self._history[name]

    def histories(self) -> dict[str, HistoryBuffer]:
        """All histories by name."""
        return self._history

    def latest(self) -> dict[str, tuple[float, int]]:
        """The last value of every scalar and the iteration it belongs to."""
        return self._latest_scalars

    def latest_with_smoothing_hint(self, window_size: int = 20) -> dict[str, tuple[float, int]]:
        """:meth:`latest`, with the median over the last ``window_size`` *iterations* for scalars to be smoothed."""
        result = {}
        for name, (latest, iteration) in list(self._latest_scalars.items()):
            smooth = self._smoothing_hints[name]
            median = self._history[name].median(self.count_samples(name, window_size)) if smooth else latest
            result[name] = (float(median), iteration)
        return result

    def count_samples(self, name: str, window_size: int = 20) -> int:
        """Number of values of a scalar within its last ``window_size`` iterations."""
        values = self._history[name].values()
        count = 0
        for _, iteration in reversed(values):
            if iteration <= values[-1][1] - window_size:
                break
            count += 1
        return count

    def smoothing_hints(self) -> dict[str, bool]:
        """The smoothing hint of every scalar."""
        return self._smoothing_hints

    def step(self) -> None:
        """Go to the next iteration (a trainer sets :attr:`iter` instead)."""
        self._iter += 1

    @property
    def iter(self) -> int:
        """The current iteration."""
        return self._iter

    @iter.setter
    def iter(self, val: int) -> None:
        self._iter = int(val)

    @property
    def iteration(self) -> int:
        """The older name of :attr:`iter`."""
        return self._iter

    def __enter__(self) -> EventStorage:
        _CURRENT_STORAGE_STACK.append(self)
        return self

    def __exit__(self, *exc_info: Any) -> None:
        assert _CURRENT_STORAGE_STACK[-1] is self, "Event storages have to be left in the reverse order of entering."
        _CURRENT_STORAGE_STACK.pop()

    @contextlib.contextmanager
    def name_scope(self, name: str) -> Iterator[None]:
        """Put ``name/`` in front of the names of all scalars added within the context."""
        outer = self._current_prefix
        self._current_prefix = name.rstrip("/") + "/"
        try:
            yield
        finally:
            self._current_prefix = outer

    def clear_images(self) -> None:
        """Forget the images; for the writer that has written them."""
        self._vis_data = []

    def clear_histograms(self) -> None:
        """Forget the histograms; for the writer that has written them."""
        self._histograms = []
